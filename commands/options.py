"""Options that several commands share, and click types for their values."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from alexstream.core.storage import parse_location

FOLDER_PARAM = click.Path(path_type=Path, file_okay=True)

FILE_PARAM = click.Path(path_type=Path)


class LocationParam(click.ParamType):
    """A local path or the address of a folder in an object store: ``s3://bucket/folder``."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a local path or one of an object store. Raises AlexstreamError for an unknown or unusable store."""
        return parse_location(value) if isinstance(value, str) else value


class SourceParam(LocationParam):
    """A location, or a list of tars as of webdataset: ``train-{000..146}.tar``, ``a.tar::b.tar``, ``pipe:COMMAND``."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a list as it is, as text, and a path for anything else.

        Raises click.BadParameter for a command that is not typed: a file of options may come from somebody else.
        """
        from alexstream.sharding.sources.tars.tar_list import is_tar_list, runs_command

        if not isinstance(value, str) or not is_tar_list(value):
            return super().convert(value, param, ctx)
        source = ctx.get_parameter_source(str(param.name)) if ctx and param else None
        if runs_command(value) and source is not ParameterSource.COMMANDLINE:
            self.fail("pipe: runs a command, so it has to be typed, and is not read from --config", param, ctx)
        return value


class ByteSizeParam(click.ParamType):
    """A number of bytes, with or without a unit (powers of 1024): ``64G``, ``500M``, ``2T``, ``1000000``."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes. Raises click.BadParameter for anything else, and for 0."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is not a size; give for example 64G", param, ctx)
        return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


class FitOnParam(click.ParamType):
    """A fraction between 0 and 1, or the location of a split of a data set."""

    name = "fraction|location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a float for a number, a path otherwise. Raises click.BadParameter for a number outside (0, 1)."""
        try:
            share = float(value)
        except (TypeError, ValueError):
            return LOCATION_PARAM.convert(value, param, ctx)
        if not 0.0 < share < 1.0:
            self.fail(
                f"{value} is not between 0 and 1; give a fraction, for example 0.5, or the folder of a split",
                param,
                ctx,
            )
        return share


class ConsumerParam(click.ParamType):
    """The rate of a simulated consumer: images/s, a percentage of the stream's peak rate, or ``sweep``."""

    name = "rate|percent|sweep"
    SWEEP_SHARES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (images/s, shares of the peak): a rate and no shares, or 0 and one share or those of a sweep.

        Raises click.BadParameter for anything else, and for a rate of 0.
        """
        if value == "sweep":
            return 0.0, self.SWEEP_SHARES
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(value).strip())
        if found is None or not float(found[1]):
            self.fail(
                f"{value!r} is no rate; give images per second (5000), a percentage of the peak (90%), or sweep", param
            )
        return (0.0, (float(found[1]) / 100,)) if found[2] else (float(found[1]), ())


class FolderLevelParam(click.ParamType):
    """A depth of folders below the source: 0, 1, 2 …, or ``last``, the deepest one."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the depth, -1 for ``last``. Raises click.BadParameter for anything else."""
        if isinstance(value, int):
            return value
        if value == "last":
            return -1
        if not re.fullmatch(r"\d{1,2}", str(value)):
            self.fail(f"{value!r} is not a folder depth; give 1, 2 …, last, or 0 for tars", param, ctx)
        return int(value)


LOCATION_PARAM = LocationParam()

SOURCE_PARAM = SourceParam()

DEFAULT_RUN = Path("runs/alexnet")
_LATEST = Path("latest")


def takes_data(help_text: str, *, required: bool = True, default: Path | None = None) -> Callable[[Any], Any]:
    """Return a decorator by which a command takes its data set as DATA and as ``--data``, and gets it as ``data``.

    The command raises click.UsageError if both are typed and name different places, or if one is ``required`` and
    none is given.
    """

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def run(*, data_argument: Any, **given: Any) -> Any:
            context = click.get_current_context()
            del context.params["data_argument"]
            data = given["data"] = choose_place(context, "data", data_argument)
            if data is None and required:
                raise click.MissingParameter(ctx=context, param_hint="'DATA' or '--data'", param_type="argument")
            context.params["data"] = data  # as ``config.toml`` of a run records it
            return function(**given)

        option = click.option("--data", default=default, type=LOCATION_PARAM, help=f"The same as DATA: {help_text}")
        argument = click.argument("data_argument", metavar="DATA", required=False, type=LOCATION_PARAM)
        return argument(option(run))

    return decorate


def choose_place(context: click.Context, name: str, argument: Any) -> Any:
    """Return a place that a command takes as an argument and as the option ``name``; a config's gives way to both.

    Raises click.UsageError if both are typed and differ.
    """
    option = context.params[name]
    is_typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    if argument is not None and is_typed and not _is_same_place(argument, option):
        raise click.UsageError(f"{argument} and --{name} {option} are two places; give one of them", context)
    return option if argument is None else argument


def _is_same_place(one: Any, other: Any) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return os.path.realpath(one) == os.path.realpath(other)
    return str(one).rstrip("/") == str(other).rstrip("/")


def takes_checkpoints(*, several: bool = False) -> Callable[[Any], Any]:
    """Return a decorator by which a command takes a checkpoint as ``--checkpoint`` or ``--run``.

    It gets ``checkpoint``, a path, or with ``several`` the tuple ``checkpoints``. Raises click.UsageError if a
    checkpoint does not lie in the run that is named beside it.
    """
    repeat = " Repeat to average several networks." if several else ""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def run(*, runs: tuple[Path, ...], checkpoints: tuple[Path, ...], **given: Any) -> Any:
            chosen = _choose_checkpoints(runs, checkpoints)
            if not several and len(chosen) > 1:
                raise click.UsageError("several checkpoints: this command takes one", click.get_current_context())
            return function(**given, **({"checkpoints": chosen} if several else {"checkpoint": chosen[0]}))

        checkpoint = click.option(
            "--checkpoint",
            "checkpoints",
            multiple=True,
            type=FOLDER_PARAM,
            help="Checkpoint file, run folder (its newest checkpoint), or RUN/latest (its newest intact one)." + repeat,
        )
        folder = click.option(
            "--run",
            "runs",
            multiple=True,
            type=FOLDER_PARAM,
            help="Run folder: the same as --checkpoint RUN, or where its files and the name latest are looked up."
            f" [default: {DEFAULT_RUN}]",
        )
        return checkpoint(folder(run))

    return decorate


def _choose_checkpoints(runs: tuple[Path, ...], checkpoints: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the checkpoints that ``--run`` and ``--checkpoint`` name together."""
    if not checkpoints:
        return runs or (DEFAULT_RUN,)
    if not runs:
        return tuple(DEFAULT_RUN / one if one == _LATEST and not one.exists() else one for one in checkpoints)
    return tuple(_find_in_run(runs, one) for one in checkpoints)


def _find_in_run(runs: tuple[Path, ...], checkpoint: Path) -> Path:
    run = runs[0]
    if len(runs) == 1 and checkpoint == Path(checkpoint.name):
        return run / checkpoint
    if len(runs) > 1 or (not _is_same_place(checkpoint.parent, run) and not _is_same_place(checkpoint, run)):
        raise click.UsageError(
            f"--checkpoint {checkpoint} is not in --run {run}; give one of them", click.get_current_context()
        )
    return checkpoint


workers_option = click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    help="Worker processes; 0: one per core.",
    show_default=True,
)

cache_option = click.option(
    "--cache",
    type=FOLDER_PARAM,
    help="Folder on this machine for shards that come from s3://. [default: ~/.cache/alexstream]",
)

cache_size_option = click.option(
    "--cache-size",
    default="64G",
    show_default=True,
    type=ByteSizeParam(),
    help="The most that --cache may hold, in bytes: 500M, 64G, 2T.",
)

views_option = click.option(
    "--views",
    default="1",
    show_default=True,
    type=click.Choice(["1", "10"]),
    help="1: the center crop. 10: average the corner and center crops and their mirror images.",
)

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Device to run on; auto: a GPU if there is one.",
)

encode_option = click.option(
    "--encode",
    "encoding",
    default="jpeg",
    show_default=True,
    type=click.Choice(["jpeg", "raw", "keep"]),
    help="What is stored of an image. jpeg: the square as JPEG. raw: its pixels. keep: the file as it is.",
)

recipe_option = click.option(
    "--recipe",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "original"]),
    help="paper: hyper-parameters as published. original: as in the authors' program of 2012 (docs/training.md "
    "lists the differences).",
)

precision_option = click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Numbers to compute with. fp32: 32 bits. bf16: 16 bits, faster where the device has them. tf32: between both, "
    "GPUs only. Weights are kept in fp32 in any case.",
)

compile_option = click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the network with torch.compile, which takes about a minute at the start: for long runs on a GPU.",
)

devices_option = click.option(
    "--devices",
    default=2,
    show_default=True,
    help="GPUs for one network, or processes on a CPU. 2: one for each of its two columns, as in the paper. 1: both "
    "columns in one.",
)

order_option = click.option(
    "--order",
    default="global",
    show_default=True,
    type=click.Choice(["global", "grouped"]),
    help="global: shuffle all samples. grouped: shuffle within groups of eight shards, for hard disks and object "
    "stores, where long sequential reads are faster.",
)

decoder_option = click.option(
    "--decoder",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "dali", "threads"]),
    help="What decodes images on a CPU; all give the same images. auto: the compiled operator, or DALI where that was "
    "not built. dali: DALI. threads: the operator, without DALI.",
)

quiet_option = click.option("--quiet", is_flag=True, help="Show no progress on stderr.")
