"""Score a network or an ensemble, and show what it does: predictions, mistakes, nearest images, kernels."""
