"""Stage 2: a DATASET v1 folder in; deterministic, seekable batches out (see ``batch``).

Owns: the order of samples in every epoch, the augmentation of every sample, the DALI graph that decodes
and crops, and the finish (mean subtraction and lighting) on the training device.
"""
