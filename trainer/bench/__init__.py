"""Measurements for the command line: what data and augmentation cost, how fast the stream and a step are."""
