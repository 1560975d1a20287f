"""What a trained network does: scored, asked, drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from commands.group import command
from commands.options import (
    FILE,
    PLACE,
    FitOnParam,
    cache_option,
    cache_size_option,
    checkpoint_option,
    checkpoints_option,
    device_option,
    quiet_option,
    views_option,
)
from commands.streams import class_names_of, evaluation_stream, resolve, torch_device
from sharding.errors import BadImageError


@command()
@click.option("--data", required=True, type=PLACE, help="Data set with train/ (for the mean image) and val/.")
@click.option("--val", default=None, type=PLACE, help="Validation split, if it is not in --data.")
@checkpoints_option
@views_option
@click.option(
    "--fit-weights",
    "fit_on",
    default=None,
    type=FitOnParam(),
    help="With several checkpoints: how much each counts is fitted on this share of the validation split, which is "
    "then not scored (0.5), or on another split (a folder). [default: all count the same]",
)
@click.option("--per-class", is_flag=True, help="A line a class as well.")
@click.option(
    "--predictions",
    "predictions_file",
    default=None,
    type=FILE,
    help="Write key, label and the five most probable classes of each image: FILE.csv or FILE.parquet.",
)
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@device_option
@cache_option
@cache_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@quiet_option
def evaluate(
    data: Path,
    val: Path | None,
    checkpoints: tuple[Path, ...],
    views: str,
    fit_on: float | Path | None,
    per_class: bool,
    predictions_file: Path | None,
    batch_size: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Loss, top-1 and top-5 of a checkpoint, or of the mean of several, on the validation split, on one device.

    What is scored is the arithmetic mean of the softmax probabilities, over ten views (corners and centre, and the
    same mirrored) and over checkpoints. Classes that tie share the places they tie for. Checkpoints that were trained
    on other classes, other data or another augmentation recipe are refused. Python: trainer.evaluate.assess.

    \b
    Examples:
      cli.py evaluate --data shards/ --checkpoint runs/alexnet
      cli.py evaluate --data shards/ --checkpoint runs/a --checkpoint runs/b --views 10
      cli.py evaluate --data shards/ --checkpoint runs/a --checkpoint runs/b --fit-weights 0.5
      cli.py evaluate --data shards/ --per-class --json --predictions said.csv
    """
    from trainer.ensemble import Ensemble
    from trainer.evaluate import FitOn, assess

    resolve(data, "train")
    ensemble = Ensemble.load(checkpoints)
    options = {"batch_size": batch_size, "cache": cache, "cache_bytes": cache_size}
    stream = evaluation_stream(data, val, ensemble, **options)
    predictions = _predictions(predictions_file, stream) if predictions_file else None
    where = FitOn(share=fit_on) if isinstance(fit_on, float) else None
    if isinstance(fit_on, Path):
        where = FitOn(data=evaluation_stream(data, fit_on, ensemble, **options))
    found = assess(
        stream, ensemble, torch_device(device), views=int(views), fit_on=where, predictions=predictions, quiet=quiet
    )
    if predictions is not None:
        predictions.write()
    if as_json:
        return click.echo(json.dumps(found.json(stream.facts(), per_class=per_class)))
    click.echo(found.lines(class_names_of(stream) if per_class else ()))


@command()
@click.argument("images", nargs=-1, required=True, type=FILE)
@click.option(
    "--data", required=True, type=PLACE, help="The data set that was trained on: its mean image, its classes."
)
@checkpoints_option
@views_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image.")
def predict(
    images: tuple[Path, ...], data: Path, checkpoints: tuple[Path, ...], views: str, device: str, as_json: bool
) -> None:
    """Say what is in image files: the five most probable classes, with probabilities.

    Any format that shard reads, converted as shard converts it for --data. A file that is no image is one line on
    stderr; the others are done all the same, and the exit code is 1. Python: trainer.predictions.most_probable.

    \b
    Examples:
      cli.py predict cat.jpg --data shards/ --checkpoint runs/alexnet
      cli.py predict photos/*.png --data shards/ --views 10 --json
    """
    from pipeline.stills import Stills
    from sharding.image import prepare
    from sharding.layout import load_manifest
    from trainer.ensemble import Ensemble
    from trainer.predictions import most_probable

    manifest = load_manifest(resolve(data, "train"))
    ensemble, where = Ensemble.load(checkpoints), torch_device(device)
    stream = evaluation_stream(data, None, ensemble)
    ensemble.require(stream.facts())
    stills, models, failed = Stills(stream.train, ensemble.augmentation, where), ensemble.models(where), False
    for path in images:
        try:
            pixels_SSC = prepare(path.read_bytes(), manifest.encode).pixels_HWC
        except (BadImageError, OSError) as error:
            failed = True
            click.echo(_unread(path, error), err=True)
            continue
        found = most_probable(models, stills.batch(pixels_SSC[None], int(views)).images_NCHW)
        click.echo(_prediction_json(path, manifest, *found) if as_json else _prediction(path, manifest, *found))
    if failed:
        sys.exit(1)


@command()
@checkpoint_option
@click.option("--out", required=True, type=FILE, help="The picture to write, kernels.png for example.")
def kernels(checkpoint: Path, out: Path) -> None:
    """Draw the kernels of the first layer, column above column, as figure 3 of the paper.

    All kernels of a column share one scale from its least weight (black) to its greatest (white), as in the program
    of 2012. Python: trainer.pictures.save_kernels.

    \b
    Example:
      cli.py kernels --checkpoint runs/alexnet --out kernels.png
    """
    from trainer.checkpoint import load
    from trainer.pictures import check_place, save_kernels

    check_place(out)
    state = load(checkpoint)
    weight = state.parameters["conv1.weight"].float().numpy()
    save_kernels(weight, state.recipe.columns, f"{checkpoint}, step {state.step:,}", out)
    click.echo(f"{out}: {len(weight)} kernels in {state.recipe.columns} column(s), from step {state.step}")


@command()
@click.option("--data", required=True, type=PLACE, help="The data set that was trained on, with train/ and val/.")
@click.option("--val", default=None, type=PLACE, help="Validation split, if it is not in --data.")
@checkpoint_option
@click.option("--out", required=True, type=FILE, help="The picture to write, neighbours.png for example.")
@click.option(
    "--queries",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How many validation images (training images, if there are none) to choose, if --key names none.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of that choice.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="A query by its key, in the validation split or else the training split; repeat.",
)
@click.option("--nearest", "count", default=6, show_default=True, type=click.IntRange(1), help="Images a query.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@device_option
@cache_option
@cache_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a query.")
@quiet_option
def neighbours(
    data: Path,
    val: Path | None,
    checkpoint: Path,
    out: Path,
    queries: int,
    seed: int,
    keys: tuple[str, ...],
    count: int,
    batch_size: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the training images that the network sees as most like some others, and draw them: figure 4 of the paper.

    Compared is the last hidden layer (4096 numbers, test mode, centre crop) by Euclidean distance. Every training
    image is compared, once, as it streams by; none is kept. Python: trainer.neighbours.find.

    \b
    Examples:
      cli.py neighbours --data shards/ --checkpoint runs/alexnet --out neighbours.png
      cli.py neighbours --data shards/ --out one.png --key cat_003 --nearest 10
    """
    from trainer.ensemble import Ensemble
    from trainer.neighbours import choose, find
    from trainer.pictures import check_place, save_neighbours

    check_place(out)
    resolve(data, "train")
    ensemble, where = Ensemble.load([checkpoint]), torch_device(device)
    stream = evaluation_stream(data, val, ensemble, batch_size=batch_size, cache=cache, cache_bytes=cache_size)
    ensemble.require(stream.facts())
    splits = _splits(stream)
    asked = choose(splits, keys, queries, seed)
    found = find(ensemble.models(where)[0], splits[-1], asked, class_names_of(stream), count, where, quiet=quiet)
    click.echo("\n".join(json.dumps(one.json()) if as_json else one.lines() for one in found))
    save_neighbours([one.pictures() for one in found], f"{checkpoint}, step {ensemble.states[0].step:,}", out)
    click.echo(f"picture: {out}", err=True)


def _predictions(path: Path, stream: Any) -> Any:
    """Where ``evaluate`` puts what is said of each image of the validation split."""
    from sharding.lookup import Lookup
    from trainer.predictions import Predictions

    return Predictions(path, list(Lookup.of(stream.val).keys) if stream.val else [], stream.facts().classes)


def _splits(stream: Any) -> list[Any]:
    """The validation split, if there is one, and the training split, each as one pass without chance."""
    from dataclasses import replace

    from sharding.lookup import Lookup
    from trainer.neighbours import Split

    named = {"val": stream.val, "train": stream.train}
    return [
        Split(name=name, catalog=Lookup.of(folder), data=replace(stream, val=folder))
        for name, folder in named.items()
        if folder is not None
    ]


def _unread(path: Path, error: Exception) -> str:
    """One line on a file that gave no image."""
    if isinstance(error, BadImageError):
        return f"Error: {path}: no usable image ({error.reason}: {error}); docs/images.md lists what is"
    return f"Error: {path}: cannot be read ({getattr(error, 'strerror', error)}); give an image file"


def _prediction(path: Path, manifest: Any, labels: list[int], probabilities: list[float]) -> str:
    """The most probable classes of an image, a line each."""
    rows = [f"{path}"]
    for label, probability in zip(labels, probabilities, strict=True):
        wnid = manifest.classes[label]
        rows.append(f"  {100 * probability:6.2f} %  {wnid}  {manifest.class_names.get(wnid, '')}".rstrip())
    return "\n".join(rows)


def _prediction_json(path: Path, manifest: Any, labels: list[int], probabilities: list[float]) -> str:
    found = [
        {"label": label, "class": wnid, "name": manifest.class_names.get(wnid), "probability": probability}
        for label, probability in zip(labels, probabilities, strict=True)
        for wnid in [manifest.classes[label]]
    ]
    return json.dumps({"image": str(path), "classes": found})
