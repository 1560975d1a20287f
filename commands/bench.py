"""``bench``: measurements on this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from commands.group import Group
from commands.options import (
    FOLDER,
    PLACE,
    Consumer,
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
    workers_option,
)
from commands.streams import resolve, stream_of, torch_device


@click.group(cls=Group)
def bench() -> None:
    """Measure on this machine: what data costs a training, and how fast each part is. docs/measuring.md explains.

    Every number is a median over rounds, with the smallest and the largest. Measure on a quiet machine.

    \b
    Examples:
      cli.py bench overlap --data shards/
      cli.py bench shard --src imagenet/
      cli.py bench stream --data shards/
      cli.py bench step --devices 1
    """


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every round's values.")

rounds_option = click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(1), help="How often each is measured."
)


@bench.command("shard")
@click.option("--src", required=True, type=PLACE, help="The images, in any form that shard reads.")
@click.option(
    "--out",
    default=None,
    type=FOLDER,
    help="Where temporary shards are written. [default: the system's folder for them]",
)
@encode_option
@click.option(
    "--limit",
    default=10_000,
    show_default=True,
    type=click.IntRange(0),
    help="Convert so many images, always the same ones, drawn from all classes; 0: all.",
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Conversions.")
@workers_option
@json_option
@quiet_option
def bench_shard(
    src: Path, out: Path | None, encoding: str, limit: int, rounds: int, workers: int, as_json: bool, quiet: bool
) -> None:
    """Measure the conversion: images/s, MB/s of sources and of shards, memory of all processes.

    The start of the workers counts, so give a --limit that lasts a while; listing does not. Nothing that is written
    stays. Of a source with train/ and val/, train/ is converted. Python: sharding.bench.measure.

    \b
    Examples:
      cli.py bench shard --src imagenet/
      cli.py bench shard --src photos/ --out /scratch --limit 2000 --workers 8 --json
    """
    from sharding.bench import measure
    from sharding.layout import EncodeRecipe
    from sharding.pack import ShardRequest
    from sharding.workers import without_pandas

    without_pandas()
    folder = out or Path(tempfile.gettempdir())
    request = ShardRequest(source=src, folder=folder, encode=EncodeRecipe(encoding=encoding), num_workers=workers)
    speed = measure(request, limit=limit, rounds=rounds, quiet=quiet)
    _show(speed.table(), speed.json(), as_json)


@bench.command("stream")
@click.option("--data", required=True, type=PLACE, help="Data set, or one of its splits.")
@click.option(
    "--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]), help="Split of --data."
)
@click.option(
    "--augmentation",
    "augmentations",
    multiple=True,
    default=("paper", "none"),
    show_default=True,
    help="What to measure, in turn: paper, original, inception (and each with -no-lighting), none; repeat it.",
)
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option(
    "--threads", default=0, type=click.IntRange(0), show_default=True, help="Decoding threads; 0: one a core."
)
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="Batches of a round.")
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
    """Measure the training stream by itself, one augmentation beside another.

    Images/s, and their ratio to the last augmentation's in the same round, with its 95 % confidence interval; MB/s
    of the float32 images that are handed over; memory. Python: trainer.bench.stream.measure.

    \b
    Examples:
      cli.py bench stream --data shards/
      cli.py bench stream --data shards/ --augmentation paper --augmentation paper-no-lighting --threads 8
    """
    from pipeline.loader import ShardedData
    from trainer.bench.stream import measure
    from trainer.launch import cores

    stream = ShardedData(
        train=resolve(data, split, any_split=True),
        batch_size=batch_size,
        augmentation=augmentations[0],
        num_threads=threads or cores(),
        cache=cache,
        cache_bytes=cache_size,
    )
    speed = measure(stream, augmentations, torch_device(device), steps=steps, rounds=rounds, quiet=quiet)
    _show(speed.table(), speed.json(), as_json)


@bench.command("step")
@recipe_option
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(2), help="Outputs of the network.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@precision_option
@devices_option
@device_option
@compile_option
@click.option("--steps", default=5, show_default=True, type=click.IntRange(1), help="Steps of a round.")
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
    """Measure a training step without data to wait for: forward, loss, backward and update on one random batch.

    Milliseconds a step, images/s, memory of each rank. Python: trainer.bench.step.measure.

    \b
    Examples:
      cli.py bench step
      cli.py bench step --devices 1 --precision bf16 --batch-size 64 --json
    """
    from trainer.bench.step import StepOptions, measure
    from trainer.recipe import RECIPES

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
    speed = measure(options, devices, device)
    _show(speed.table(), speed.json(), as_json)


@bench.command("overlap")
@click.option("--data", required=True, type=PLACE, help="Data set: a folder (or s3://bucket/folder), or a split.")
@click.option(
    "--consumer",
    default=None,
    type=Consumer(),
    help="In place of the network, what takes so many images per second without a CPU, as an accelerator would: "
    "5000; 90% of the stream's peak; or sweep, from 50% to 100%.",
)
@click.option("--devices", default=2, show_default=True, help="As for train; with --consumer, 1.")
@device_option
@recipe_option
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(2))
@precision_option
@compile_option
@click.option(
    "--augment",
    default=None,
    type=click.Choice(["paper", "original", "inception"]),
    help="What is compared with none.  [default: as --recipe]",
)
@order_option
@click.option(
    "--threads", default=0, type=click.IntRange(0), show_default=True, help="As for train; 0: cores / devices."
)
@decoder_option
@cache_option
@cache_size_option
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1), help="Counted steps of a block.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Blocks of each kind.")
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
    """Is it my data or my GPU? What the stream costs a training, and what augmentation costs it.

    In turn, in one process a rank: steps on live batches, on one cached batch, and on live batches without
    augmentation. live ÷ cached is the cost of data, live ÷ without the cost of augmentation, each with a 95 %
    confidence interval; then what is waited for, and a verdict. Python: trainer.bench.overlap.

    \b
    Examples:
      cli.py bench overlap --data shards/
      cli.py bench overlap --data shards/ --devices 1 --precision bf16 --batch-size 256
      cli.py bench overlap --data shards/ --consumer 5000
      cli.py bench overlap --data shards/ --consumer sweep
    """
    from trainer import launch
    from trainer.bench.overlap import OverlapOptions, measure
    from trainer.recipe import RECIPES

    devices = 1 if consumer else devices
    images_per_s, shares = consumer or (0.0, ())
    device_type = launch.choose_device_type(devices, device)
    stream = stream_of(
        data,
        None,
        batch_size=batch_size,
        augmentation=augment or recipe,
        order=order,
        decoder=decoder,
        cache=cache,
        cache_bytes=cache_size,
        num_threads=threads or max(1, launch.cores() // launch.num_local_processes(devices)),
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
    found = launch.results_of(measure, (stream, options, quiet), devices, device_type)[0]
    if launch.is_main_process():
        _show("\n".join(found.pop("lines")), found, as_json)


def _show(table: str, measured: dict[str, Any], as_json: bool) -> None:
    """What a ``bench`` command measured, with its options and the machine."""
    from dataclasses import asdict

    from sharding.machine import Machine

    context, machine = click.get_current_context(), Machine.here()
    if not as_json:
        return click.echo(f"{table}\n{machine.line()}")
    facts = {"command": f"bench {context.info_name}", "options": context.params, "machine": asdict(machine)}
    click.echo(json.dumps({**facts, "measured": measured}, default=str))
