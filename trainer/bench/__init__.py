"""Benchmarks of ``cli.py bench``: the cost of data and augmentation, the speed of the stream and of a step."""
