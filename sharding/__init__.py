"""Stage 1: convert source images to shards, catalog and exact statistics (DATASET v1, see ``dataset_v1``).

Reads images in any common form and writes a folder that every later stage can trust. Decides which files count as
images, labels, keys, the order of samples, the stored pixels and their statistics. Loads neither torch nor DALI.
"""
