"""Damage one stored sample of a data set."""

from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.sharding.dataset_v1.catalog import load_catalog


def damage_sample(folder, sample):
    """Overwrite the start of a stored image; returns its key."""
    opened = open_dataset(folder)
    with (folder / f"{opened.manifest.shards[opened.shard_N[sample]].name}.tar").open("r+b") as file:
        file.seek(int(opened.offset_N[sample]))
        file.write(b"\0" * 64)
    return load_catalog(folder, opened.manifest, ("key",))["key"][sample]
