"""Stage 1: source images in; shards, catalog and exact statistics out (DATASET v1, see ``layout``).

Reads images in whatever form they come, writes a folder that every later stage can trust. Owns: which files count as
images, labels, keys, the order of samples, the stored pixels and their statistics. Loads neither torch
nor DALI.
"""
