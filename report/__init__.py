"""Reports: a data set or a training run on one HTML page."""
