"""Decode and augment the samples of a batch: by the compiled operator (``fused``) or by DALI's graphs (``dali``)."""
