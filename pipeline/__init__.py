"""Stage 2: read a DATASET v1 folder, yield deterministic, seekable batches (see ``batch``).

Owns the order of samples in every epoch, the augmentation of every sample, the DALI graph that decodes and crops, and
the normalization (mean subtraction and lighting) on the training device.
"""
