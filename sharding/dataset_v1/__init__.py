"""CONTRACT 1: DATASET v1 on disk, reader and writer of each document: manifest, statistics, catalog, shards.

A folder holds one split; ``docs/formats.md`` is the normative description. Every document is checked against its digest
when it is read.

Shape legend: H, W = stored height and width (256), C = 3 color channels in R, G, B order.
"""
