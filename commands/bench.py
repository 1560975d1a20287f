"""``bench``: measure conversion, stream, training step and their overlap on this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from alexstream.commands.group import Group
from alexstream.commands.options import (
    FOLDER_PARAM,
    SOURCE_PARAM,
    ConsumerParam,
    cache_option,
    cache_size_option,
    compile_option,
    decoder_option,
    device_option,
    devices_option,
    encode_option,
    order_option,
    precision_option,
    quiet_option,
    recipe_option,
    takes_data,
    workers_option,
)
from alexstream.commands.streams import choose_device, find_split_folder, make_stream


@click.group(cls=Group)
def bench() -> None:
    """Measure on this machine how fast each stage is, and how much time data costs a training.

    Every number is a median over rounds, with the smallest and the largest. Measure while nothing else runs.
    docs/measuring.md explains the methods.

    \b
    Examples:
      cli.py bench overlap --data shards/
      cli.py bench shard --src imagenet/
      cli.py bench stream --data shards/
      cli.py bench step --devices 1
    """


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, with the values of each round."
)

rounds_option = click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Number of rounds; each measures everything once.",
)


@bench.command("shard")
@click.option("--src", required=True, type=SOURCE_PARAM, help="Where the images are, as for shard.")
@click.option(
    "--out",
    default=None,
    type=FOLDER_PARAM,
    help="Folder for temporary shards. [default: the system's temporary folder]",
)
@encode_option
@click.option(
    "--limit",
    default=10_000,
    show_default=True,
    type=click.IntRange(0),
    help="Convert this many images, a fixed random choice from all classes; 0: all images.",
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Number of conversions.")
@workers_option
@json_option
@quiet_option
def bench_shard(
    src: Path | str, out: Path | None, encoding: str, limit: int, rounds: int, workers: int, as_json: bool, quiet: bool
) -> None:
    """Measure the conversion to shards: images/s, MB/s read and written, memory of all processes.

    The time includes starting the workers, but not listing the source, so choose a --limit that takes some time. The
    shards are deleted afterwards. Only train/ is converted if the source has splits. Python:
    alexstream.sharding.bench.measure_conversion.

    \b
    Examples:
      cli.py bench shard --src imagenet/
      cli.py bench shard --src photos/ --out /scratch --limit 2000 --workers 8 --json
    """
    from alexstream.sharding.bench import measure_conversion
    from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
    from alexstream.sharding.executors.local import hide_pandas
    from alexstream.sharding.sources.tars.tar_list import TarList, open_source
    from alexstream.sharding.split_plans import ShardRequest

    hide_pandas()
    folder = out or Path(tempfile.gettempdir())
    listed = open_source(src) if isinstance(src, str) else TarList(src)
    request = ShardRequest(
        source=listed.folder,
        tars=listed.tars,
        folder=folder,
        encode=EncodeRecipe(encoding=encoding),
        num_workers=workers,
    )
    speed = measure_conversion(request, limit=limit, rounds=rounds, quiet=quiet)
    _print_measurement(speed.table(), speed.to_dict(), as_json)


@bench.command("stream")
@takes_data("data set, or one of its splits; a folder or s3://bucket/folder.")
@click.option(
    "--split",
    default="train",
    show_default=True,
    type=click.Choice(["train", "val", "test"]),
    help="Split of --data to read.",
)
@click.option(
    "--augmentation",
    "augmentations",
    multiple=True,
    default=("paper", "none"),
    show_default=True,
    help="Augmentation to measure: paper, original, inception, each also with -no-lighting, or none. Repeat to compare "
    "several in turn.",
)
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Images per batch.")
@click.option(
    "--threads", default=0, type=click.IntRange(0), show_default=True, help="Decoding threads; 0: one per core."
)
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="Batches per round.")
@rounds_option
@device_option
@cache_option
@cache_size_option
@json_option
@quiet_option
def bench_stream(
    data: Path,
    split: str,
    augmentations: tuple[str, ...],
    batch_size: int,
    threads: int,
    steps: int,
    rounds: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the training stream without a network, with one or several augmentations.

    Prints images/s, their ratio to those of the last augmentation in the same round with a 95 % confidence interval,
    MB/s of float32 images delivered, and memory. Python: alexstream.trainer.bench.stream.measure_stream.

    \b
    Examples:
      cli.py bench stream --data shards/
      cli.py bench stream --data shards/ --augmentation paper --augmentation paper-no-lighting --threads 8
    """
    from alexstream.core.limits import count_cores
    from alexstream.pipeline.stream import ShardedData
    from alexstream.trainer.bench.stream import measure_stream

    stream = ShardedData(
        train=find_split_folder(data, split, any_split=True),
        batch_size=batch_size,
        augmentation=augmentations[0],
        num_threads=threads or count_cores(),
        cache=cache,
        cache_bytes=cache_size,
    )
    speed = measure_stream(stream, augmentations, choose_device(device), steps=steps, rounds=rounds, quiet=quiet)
    _print_measurement(speed.table(), speed.to_dict(), as_json)


@bench.command("step")
@recipe_option
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(2), help="Classes of the network.")
@click.option(
    "--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Images per step, over all devices."
)
@precision_option
@devices_option
@device_option
@compile_option
@click.option("--steps", default=5, show_default=True, type=click.IntRange(1), help="Steps per round.")
@rounds_option
@json_option
@quiet_option
def bench_step(
    recipe: str,
    classes: int,
    batch_size: int,
    precision: str,
    devices: int,
    device: str,
    compiled: bool,
    steps: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a training step without a data stream: forward, loss, backward and update on one random batch.

    Prints milliseconds per step, images/s and the memory of each rank. Python:
    alexstream.trainer.bench.step.measure_step.

    \b
    Examples:
      cli.py bench step
      cli.py bench step --devices 1 --precision bf16 --batch-size 64 --json
    """
    from alexstream.trainer.bench.step import StepOptions, measure_step
    from alexstream.trainer.recipe import RECIPES

    options = StepOptions(
        recipe=RECIPES[recipe],
        classes=classes,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        steps=steps,
        rounds=rounds,
        quiet=quiet,
    )
    speed = measure_step(options, devices, device)
    _print_measurement(speed.table(), speed.to_dict(), as_json)


@bench.command("overlap")
@takes_data("data set, or its training split; a folder or s3://bucket/folder.")
@click.option(
    "--consumer",
    default=None,
    type=ConsumerParam(),
    help="Measure with a pretended network, which takes images at a fixed rate and uses no CPU: images per second "
    "(5000), a percentage of what the stream can give (90%), or sweep, from 50% to 100%.",
)
@click.option(
    "--devices",
    default=2,
    show_default=True,
    help="GPUs for one network, or processes on a CPU, 1 or 2, as for train; always 1 with --consumer.",
)
@device_option
@recipe_option
@click.option(
    "--batch-size", default=128, show_default=True, type=click.IntRange(2), help="Images per step, over all devices."
)
@precision_option
@compile_option
@click.option(
    "--augment",
    default=None,
    type=click.Choice(["paper", "original", "inception"]),
    help="Augmentation to compare with none. [default: the augmentation of --recipe]",
)
@order_option
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(0),
    show_default=True,
    help="Decoding threads per process; 0: cores / processes.",
)
@decoder_option
@cache_option
@cache_size_option
@click.option(
    "--steps",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Timed steps per block. [default: 20, or as many as fit into two minutes]",
)
@click.option(
    "--rounds",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Rounds; each has a block of every kind. [default: 7, or as many as fit into two minutes]",
)
@json_option
@quiet_option
def bench_overlap(
    data: Path,
    consumer: Any,
    devices: int,
    device: str,
    recipe: str,
    batch_size: int,
    precision: str,
    compiled: bool,
    augment: str | None,
    order: str,
    threads: int,
    decoder: str,
    cache: Path | None,
    cache_size: int,
    steps: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure whether data or the device limits a training, and what data and augmentation cost it.

    Alternates, in the same processes, steps on live batches, on one cached batch, and on live batches without
    augmentation. live ÷ cached is the cost of data, live ÷ without augmentation the cost of augmentation, each with a
    95 % confidence interval. Also prints waiting times, the time of each stage, and a verdict. Takes two minutes at
    most, if steps are not very slow, and says first what it will do.
    Python: alexstream.trainer.bench.overlap.

    \b
    Examples:
      cli.py bench overlap --data shards/
      cli.py bench overlap --data shards/ --devices 1 --precision bf16 --batch-size 256
      cli.py bench overlap --data shards/ --consumer 5000
      cli.py bench overlap --data shards/ --consumer sweep
    """
    from alexstream.core.limits import count_cores
    from alexstream.trainer.bench.overlap import OverlapOptions, measure_overlap
    from alexstream.trainer.distributed import launch
    from alexstream.trainer.recipe import RECIPES

    devices = 1 if consumer else devices
    images_per_s, shares = consumer or (0.0, ())
    device_type = launch.choose_device_type(devices, device)
    stream = make_stream(
        data,
        None,
        batch_size=batch_size,
        augmentation=augment or recipe,
        order=order,
        decoder=decoder,
        cache=cache,
        cache_bytes=cache_size,
        num_threads=threads or max(1, count_cores() // launch.count_local_processes(devices)),
    )
    stream.facts()
    options = OverlapOptions(
        steps=steps,
        rounds=rounds,
        images_per_s=images_per_s,
        shares=shares,
        recipe=RECIPES[recipe],
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
    )
    found = launch.collect_results(measure_overlap, (stream, options, quiet), devices, device_type)[0]
    if launch.is_main_process():
        _print_measurement("\n".join(found.pop("lines")), found, as_json)


def _print_measurement(table: str, measured: dict[str, Any], as_json: bool) -> None:
    """Print a measurement with the machine that it was made on: as a table, or as JSON with the options too."""
    from dataclasses import asdict

    from alexstream.core.machine import Machine

    context, machine = click.get_current_context(), Machine.here()
    if not as_json:
        return click.echo(f"{table}\n{machine.to_text()}")
    facts = {"command": f"bench {context.info_name}", "options": context.params, "machine": asdict(machine)}
    click.echo(json.dumps({**facts, "measured": measured}, default=str, allow_nan=False))
