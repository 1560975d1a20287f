"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sharding.storage import location

FOLDER = click.Path(path_type=Path, file_okay=True)

FILE = click.Path(path_type=Path)


class Place(click.ParamType):
    """A folder of this machine, or one of an object store: ``s3://bucket/folder``."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or one line of what is wrong with it."""
        return location(value) if isinstance(value, str) else value


class Bytes(click.ParamType):
    """A number of bytes: ``64G``, ``500M``, ``2T`` (powers of 1024), or plain."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The value, or one line of what is wrong with it."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no size; give for example 64G", param, ctx)
        return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


class FitOnParam(click.ParamType):
    """A share between 0 and 1, or a split of a data set."""

    name = "share|place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or one line of what is wrong with it."""
        try:
            share = float(value)
        except (TypeError, ValueError):
            return PLACE.convert(value, param, ctx)
        if not 0.0 < share < 1.0:
            self.fail(f"{value} is no share; give one between 0 and 1, for example 0.5, or a split", param, ctx)
        return share


class Consumer(click.ParamType):
    """Images per second; a share of the stream's peak rate; or ``sweep``, several shares: (images/s, shares)."""

    name = "rate|share|sweep"
    sweep = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or one line of what is wrong with it."""
        if value == "sweep":
            return 0.0, self.sweep
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(value).strip())
        if found is None or not float(found[1]):
            self.fail(
                f"{value!r} is no rate; give images per second (5000), a share of the peak (90%), or sweep", param
            )
        return (0.0, (float(found[1]) / 100,)) if found[2] else (float(found[1]), ())


PLACE = Place()

workers_option = click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    help="Worker processes; 0 means one per core.",
    show_default=True,
)

cache_option = click.option(
    "--cache",
    type=FOLDER,
    help="Where shards of an object store are kept on this machine. [default: ~/.cache/alexstream]",
)

cache_size_option = click.option(
    "--cache-size", default="64G", show_default=True, type=Bytes(), help="What --cache may hold at most."
)

checkpoint_option = click.option(
    "--checkpoint",
    default=Path("runs/alexnet"),
    show_default=True,
    type=FOLDER,
    help="A checkpoint, or a run folder's newest.",
)

checkpoints_option = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=(Path("runs/alexnet"),),
    show_default=True,
    type=FOLDER,
    help="A checkpoint, or a run folder's newest; repeat it to average several.",
)

views_option = click.option(
    "--views",
    default="1",
    show_default=True,
    type=click.Choice(["1", "10"]),
    help="The centre, or the mean of ten views: corners and centre, and the same mirrored.",
)

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto: the GPU if there is one.",
)

encode_option = click.option(
    "--encode",
    "encoding",
    default="jpeg",
    show_default=True,
    type=click.Choice(["jpeg", "raw", "keep"]),
    help="Store squares as JPEG or as raw pixels, or keep the original bytes.",
)

recipe_option = click.option(
    "--recipe",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "original"]),
    help="paper: as published. original: as the program of 2012 did (docs/training.md lists the differences).",
)

precision_option = click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Of activations and gradients; parameters stay float32. tf32: GPUs only.",
)

compile_option = click.option(
    "--compile", "compiled", is_flag=True, help="Let torch.compile fuse what it can; starts a minute later."
)

devices_option = click.option(
    "--devices", default=2, show_default=True, help="2: one column per process. 1: both columns in one."
)

order_option = click.option(
    "--order",
    default="global",
    show_default=True,
    type=click.Choice(["global", "grouped"]),
    help="Shuffle all samples, or eight shards at a time: for disks and buckets, which want long reads.",
)

decoder_option = click.option(
    "--decoder",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "dali"]),
    help="auto: the compiled operator where it can be used; dali: never. The images are the same.",
)

quiet_option = click.option("--quiet", is_flag=True, help="No progress on stderr.")
