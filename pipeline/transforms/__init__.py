"""Augmentation and normalization: draws (crop, flip, lighting), the mean, and the arithmetic on the device."""
