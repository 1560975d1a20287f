"""Detect and list every supported form of images and labels, and read the images in place.

``detect`` detects the form by content and returns a lister for each split, from which ``sharding.listing`` builds
columns; ``reader`` reads one image in a worker process. Forms: ``folder``, ``parquet``, ``tars`` (class folders in
tars, WebDataset), ``imagenet`` (the original archives, Kaggle's) and ``labels`` (tables beside images). Shared by them:
``files`` (names and byte ranges), ``structure`` and ``split_words`` (which folders are splits and classes).
"""
