"""Helpers that turn options into library objects: a split's folder, a stream, a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from alexstream.core.errors import DatasetError


def find_split_folder(data: Path, split: str, *, any_split: bool = False) -> Path:
    """Return the folder of the split named ``split`` in ``data``.

    With ``any_split``, ``data`` itself is returned if it is a split, whatever its name. Raises DatasetError if there
    is no such split.
    """
    from alexstream.sharding.dataset_v1.layout import is_dataset
    from alexstream.sharding.dataset_v1.manifest import find_split, list_split_folders
    from alexstream.sharding.dataset_v1.missing import describe_missing_dataset

    found = data if any_split and is_dataset(data) else find_split(data, split)
    if found is None:
        if (data / split).is_dir():
            raise DatasetError(describe_missing_dataset(data / split))
        held = ", ".join(one.name for one in list_split_folders(data))  # raises an error if there is no data set at all
        raise DatasetError(f"{data} holds no split {split!r}, only {held}; give a data set that has it")
    return found


def make_stream(data: Path, val: Path | None, **options: Any) -> Any:
    """Return a ShardedData of ``data``'s training split, with its own validation split or that in ``val``.

    ``options`` are further fields of ShardedData. Raises DatasetError if there is no such split.
    """
    from alexstream.pipeline.stream import ShardedData
    from alexstream.sharding.dataset_v1.manifest import find_split

    train = find_split_folder(data, "train")
    val = find_split(data, "val") if val is None else find_split_folder(val, "val", any_split=True)
    return ShardedData(train=train, val=val, **options)


def make_evaluation_stream(data: Path, val: Path | None, ensemble: Any, **options: Any) -> Any:
    """Return a stream that normalizes images as ``ensemble``'s networks were trained, decoding on all cores."""
    from alexstream.core.limits import count_cores

    return make_stream(data, val, augmentation=ensemble.augmentation, num_threads=count_cores(), **options)


def choose_device(wanted: str) -> Any:
    """Return the torch.device for the value of ``--device``. Raises TrainError for cuda without a GPU."""
    from alexstream.trainer.distributed.launch import choose_single_device

    return choose_single_device(wanted)


def tell_missing_letters(letters: str, out: Path) -> None:
    """Print a note on letters of the picture ``out`` that no font of this machine has, if there are any."""
    if letters:
        some = " ".join(letters[:8]) + (f" and {len(letters) - 8:,} more" if len(letters) > 8 else "")
        click.echo(
            f"note: {out}: no font on this machine has {some}, so boxes stand for them; install a font that has, such "
            "as Noto (Debian: fonts-noto-core, fonts-noto-cjk), or write an .svg, whose viewer finds the letters",
            err=True,
        )


def load_class_names(stream: Any) -> tuple[str, ...]:
    """Load the readable names of a stream's classes, by label."""
    from alexstream.sharding.dataset_v1.manifest import load_manifest
    from alexstream.sharding.lookup import list_class_names

    return list_class_names(load_manifest(stream.train))
