"""Open a DATASET v1 folder or bucket: catalog as arrays, shards as file descriptors, all checked before streaming."""
