"""Every form in which images and labels come, read where they lie: nothing is unpacked, nothing is copied.

``recognise`` decides by content what a source is and gives, split by split, what ``sharding.listing`` makes columns
of; ``reading`` gives the bytes of one image to a worker process. One module a form: ``folder``, ``flat_val``,
``archives``, ``kaggle``, ``parquet``, ``webdataset``; what they share: ``place`` (files), ``tar_walk`` (tars),
``devkit`` (labels of the validation images), ``ilsvrc`` (facts), ``class_list`` (``--classes FILE``).
"""
