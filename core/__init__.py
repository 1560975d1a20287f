"""The floor under the stages: errors, typed values from JSON, text, storage, limits of the machine, progress, numba.

Knows nothing of images, batches or networks, and loads neither torch nor DALI.
"""
