"""What commands open: a split of a data set, the stream of one, a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharding.errors import DatasetError


def resolve(data: Path, split: str, *, any_split: bool = False) -> Path:
    """The folder of a split in ``data``; ``any_split``: a data set named outright is taken whatever its split."""
    from sharding.layout import find_split, is_dataset, split_folders_of

    found = data if any_split and is_dataset(data) else find_split(data, split)
    if found is None:
        split_folders_of(data)  # says what is wrong if there is no data set at all
        raise DatasetError(f"{data} holds no split {split!r}; make it with: cli.py shard --split {split}")
    return found


def stream_of(data: Path, val: Path | None, **options: Any) -> Any:
    """The batches of the data set in ``data``, with its own or another validation split."""
    from pipeline.loader import ShardedData
    from sharding.layout import find_split

    train = resolve(data, "train")
    val = find_split(data, "val") if val is None else resolve(val, "val", any_split=True)
    return ShardedData(train=train, val=val, **options)


def evaluation_stream(data: Path, val: Path | None, ensemble: Any, **options: Any) -> Any:
    """As ``stream_of``, with the mean and the divisor that the networks were trained with."""
    from trainer.launch import cores

    return stream_of(data, val, augmentation=ensemble.augmentation, num_threads=cores(), **options)


def torch_device(wanted: str) -> Any:
    """What ``--device`` stands for."""
    import torch

    from trainer.launch import choose_device_type

    return torch.device(choose_device_type(1, wanted))


def class_names_of(stream: Any) -> tuple[str, ...]:
    """Names of the classes by label, for people."""
    from sharding.layout import load_manifest
    from sharding.lookup import class_names

    return class_names(load_manifest(stream.train))
