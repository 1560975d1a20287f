"""Commands that use a trained network: evaluate, predict, kernels, neighbours."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from alexstream.commands.group import command
from alexstream.commands.options import (
    FILE_PARAM,
    LOCATION_PARAM,
    FitOnParam,
    cache_option,
    cache_size_option,
    device_option,
    quiet_option,
    takes_checkpoints,
    takes_data,
    views_option,
)
from alexstream.commands.streams import (
    choose_device,
    find_split_folder,
    load_class_names,
    make_evaluation_stream,
    tell_missing_letters,
)
from alexstream.core.errors import BadImageError
from alexstream.core.text import count_of


@command()
@takes_data("data set that the network was trained on: its train/ holds the mean image.")
@click.option("--val", default=None, type=LOCATION_PARAM, help="Validation split. [default: val/ in --data]")
@takes_checkpoints(several=True)
@views_option
@click.option(
    "--fit-weights",
    "fit_on",
    default=None,
    type=FitOnParam(),
    help="Give several checkpoints the weights with which they score best on some images: a share of the validation "
    "split (0.5), which is then not scored, or another split (a folder). [default: equal weights]",
)
@click.option("--per-class", is_flag=True, help="Also print the scores of each class.")
@click.option(
    "--predictions",
    "predictions_file",
    default=None,
    type=FILE_PARAM,
    help="Write the key, the label and the five most probable classes of each image to this .csv or .parquet file.",
)
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Images per batch.")
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
    """Evaluate one checkpoint, or an ensemble of several, on the validation split: loss, top-1 and top-5 accuracy.

    Softmax probabilities are averaged over views and over checkpoints. Classes with equal probabilities share the
    credit. Checkpoints trained on other classes, other data or another augmentation are refused. Runs on one device.
    Python: alexstream.evaluate.

    \b
    Examples:
      cli.py evaluate --data shards/ --checkpoint runs/alexnet
      cli.py evaluate --data shards/ --checkpoint runs/a --checkpoint runs/b --views 10
      cli.py evaluate --data shards/ --checkpoint runs/a --checkpoint runs/b --fit-weights 0.5
      cli.py evaluate --data shards/ --per-class --json --predictions said.csv
    """
    from alexstream.trainer.evaluation.ensemble import Ensemble
    from alexstream.trainer.evaluation.evaluate import WeightFitData, assess

    find_split_folder(data, "train")
    ensemble = Ensemble.load(checkpoints)
    options = {"batch_size": batch_size, "cache": cache, "cache_bytes": cache_size}
    stream = make_evaluation_stream(data, val, ensemble, **options)
    predictions = _open_predictions(predictions_file, stream) if predictions_file else None
    where = WeightFitData(share=fit_on) if isinstance(fit_on, float) else None
    if isinstance(fit_on, Path):
        where = WeightFitData(data=make_evaluation_stream(data, fit_on, ensemble, **options))
    found = assess(
        stream, ensemble, choose_device(device), views=int(views), fit_on=where, predictions=predictions, quiet=quiet
    )
    try:
        if predictions is not None:
            predictions.write()
    finally:  # the score has taken long, and is whole
        if as_json:
            click.echo(json.dumps(found.to_dict(stream.facts(), per_class=per_class), allow_nan=False))
        else:
            click.echo(found.to_text(load_class_names(stream) if per_class else ()))


@command()
@click.argument("images", nargs=-1, required=True, type=FILE_PARAM)
@click.option(
    "--data",
    default=None,
    type=LOCATION_PARAM,
    help="Data set that the network was trained on; only for checkpoints of version 0.2.0 and before, which do not "
    "hold the mean image and the names of the classes.",
)
@takes_checkpoints(several=True)
@views_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
def predict(
    images: tuple[Path, ...], data: Path | None, checkpoints: tuple[Path, ...], views: str, device: str, as_json: bool
) -> None:
    """Classify pictures, or folders of them: print the five most probable classes of each, with probabilities.

    Needs the checkpoint alone. Reads every format that shard reads, and converts images in the same way. A file that
    is not a usable image is reported on stderr; the other files are still classified, and the exit code is 1.
    Python: alexstream.trainer.evaluation.predictions.predict_top_classes.

    \b
    Examples:
      cli.py predict cat.jpg --checkpoint runs/alexnet
      cli.py predict cat.jpg dog.jpg photos/new/ --checkpoint runs/alexnet/latest
      cli.py predict photos/*.png --views 10 --json
    """
    from alexstream.pipeline.single_image import ImagePreprocessor
    from alexstream.sharding.images.decode import prepare_image
    from alexstream.sharding.sources.reader import read_image_file
    from alexstream.trainer.evaluation.ensemble import Ensemble
    from alexstream.trainer.evaluation.predictions import predict_top_classes

    ensemble, where = Ensemble.load(checkpoints), choose_device(device)
    preprocessing, classes = _load_preprocessing(data, ensemble)
    pictures = ImagePreprocessor(preprocessing, ensemble.augmentation, where)
    models, failed = ensemble.build_models(where), False
    for path in _list_pictures(images):
        try:
            pixels_SSC = prepare_image(read_image_file(path), preprocessing.encode).pixels_HWC
        except (BadImageError, OSError) as error:
            failed = True
            click.echo(_format_unreadable(path, error), err=True)
            continue
        found = predict_top_classes(models, pictures.batch(pixels_SSC[None], int(views)).images_NCHW)
        answers = _name_classes(classes, preprocessing.class_names, *found)
        click.echo(_format_prediction_json(path, answers) if as_json else _format_prediction(path, answers))
    if failed:
        sys.exit(1)


def _load_preprocessing(data: Path | None, ensemble: Any) -> tuple[Any, tuple[str, ...]]:
    """Return what turns pictures into input, and the classes: those of the checkpoints, or of ``data`` where given."""
    if data is None:
        return ensemble.require_preprocessing(), ensemble.classes
    find_split_folder(data, "train")
    facts = make_evaluation_stream(data, None, ensemble).facts()
    ensemble.require_match(facts)
    return facts.preprocessing, facts.classes


def _list_pictures(places: tuple[Path, ...]) -> Iterator[Path]:
    """Yield files as they are, and of folders the files at any depth that may be images, sorted.

    Raises SourceError for a folder without any.
    """
    from alexstream.core.errors import SourceError
    from alexstream.sharding.sources.files import LinkFollower, may_be_image, walk_files

    for place in places:
        if not place.is_dir():
            yield place
            continue
        listed = walk_files(place, str(place), LinkFollower())
        found = [Path(path) for path, left_out in listed if not left_out and may_be_image(path)]
        if not found:
            raise SourceError(f"{place} holds no images; give image files, or a folder of them")
        yield from found


@command(writes_files=True)
@takes_checkpoints()
@click.option("--out", required=True, type=FILE_PARAM, help="Picture to write, for example kernels.png.")
def kernels(checkpoint: Path, out: Path) -> None:
    """Draw the kernels of the first layer, one column above the other, as in figure 3 of the paper.

    All kernels of a column share one scale, from its smallest weight (black) to its largest (white), as in the
    program of 2012. Python: alexstream.trainer.evaluation.pictures.save_kernels.

    \b
    Example:
      cli.py kernels --checkpoint runs/alexnet --out kernels.png
    """
    from alexstream.trainer.checkpoint import load_checkpoint
    from alexstream.trainer.evaluation.pictures import check_picture_path, save_kernels

    check_picture_path(out)
    state = load_checkpoint(checkpoint)
    state.require_network(checkpoint)
    weight = state.parameters["conv1.weight"].float().numpy()
    missing = save_kernels(weight, state.recipe.columns, f"{checkpoint}, step {state.step:,}", out)
    tell_missing_letters(missing, out)
    click.echo(f"{out}: {len(weight)} kernels in {count_of(state.recipe.columns, 'column')}, from step {state.step}")


@command()
@takes_data("data set that the network was trained on, with train/.")
@click.option("--val", default=None, type=LOCATION_PARAM, help="Validation split. [default: val/ in --data]")
@takes_checkpoints()
@click.option("--out", required=True, type=FILE_PARAM, help="Picture to write, for example neighbours.png.")
@click.option(
    "--queries",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Number of query images to choose from the validation split (from the training split if there is none); "
    "ignored with --key.",
)
@click.option("--seed", default=0, show_default=True, help="Seed for choosing the queries.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Use the sample with this key, in the validation or else the training split, as a query. Repeat for several.",
)
@click.option(
    "--nearest", "count", default=6, show_default=True, type=click.IntRange(1), help="Nearest images to find per query."
)
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Images per batch.")
@device_option
@cache_option
@cache_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per query.")
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
    """Find the training images most similar to some query images, and draw them, as in figure 4 of the paper.

    Similarity is the Euclidean distance between the activations of the last hidden layer, in test mode, of the center
    crops. The search is exact: it passes once over the whole training split. Python:
    alexstream.trainer.evaluation.neighbors.find_neighbors.

    \b
    Examples:
      cli.py neighbours --data shards/ --checkpoint runs/alexnet --out neighbours.png
      cli.py neighbours --data shards/ --out one.png --key cat_003 --nearest 10
    """
    from alexstream.trainer.evaluation.ensemble import Ensemble
    from alexstream.trainer.evaluation.neighbors import choose_queries, find_neighbors
    from alexstream.trainer.evaluation.pictures import check_picture_path, save_neighbors

    check_picture_path(out)
    find_split_folder(data, "train")
    ensemble, where = Ensemble.load([checkpoint]), choose_device(device)
    stream = make_evaluation_stream(data, val, ensemble, batch_size=batch_size, cache=cache, cache_bytes=cache_size)
    ensemble.require_match(stream.facts())
    splits = _list_splits(stream)
    asked = choose_queries(splits, keys, queries, seed)
    found = find_neighbors(
        ensemble.build_models(where)[0], splits[-1], asked, load_class_names(stream), count, where, quiet=quiet
    )
    click.echo("\n".join(json.dumps(one.to_dict(), allow_nan=False) if as_json else one.to_text() for one in found))
    state = ensemble.states[0]
    what = f"{checkpoint}, step {state.step:,}"
    missing = save_neighbors([one.pictures() for one in found], state.num_activations, what, out)
    if not quiet:
        tell_missing_letters(missing, out)
    click.echo(f"picture: {out}", err=True)


def _open_predictions(path: Path, stream: Any) -> Any:
    """Return the file to which ``evaluate`` writes its predictions for the validation split."""
    from alexstream.sharding.lookup import SampleLookup
    from alexstream.trainer.evaluation.predictions import PredictionsFile

    return PredictionsFile(
        path, list(SampleLookup.from_folder(stream.val).keys) if stream.val else [], stream.facts().classes
    )


def _list_splits(stream: Any) -> list[Any]:
    """Return the validation split, if there is one, and the training split, each read once without augmentation."""
    from dataclasses import replace

    from alexstream.sharding.lookup import SampleLookup
    from alexstream.trainer.evaluation.neighbors import Split

    named = {"val": stream.val, "train": stream.train}
    return [
        Split(name=name, catalog=SampleLookup.from_folder(folder), data=replace(stream, val=folder))
        for name, folder in named.items()
        if folder is not None
    ]


def _format_unreadable(path: Path, error: Exception) -> str:
    """Return a one-line error for a file that could not be read as an image."""
    if isinstance(error, BadImageError):
        return f"Error: {path}: not a usable image ({error.reason}: {error}); docs/images.md lists what is supported"
    return f"Error: {path}: cannot be read ({getattr(error, 'strerror', error)}); give an image file"


def _name_classes(
    classes: tuple[str, ...], names: tuple[str, ...], labels: list[int], probabilities: list[float]
) -> list[dict[str, Any]]:
    """Return the most probable classes: label, class, name in words (None: it has none) and probability of each."""
    return [
        {
            "label": label,
            "class": classes[label],
            "name": names[label] if names and names[label] != classes[label] else None,
            "probability": probability,
        }
        for label, probability in zip(labels, probabilities, strict=True)
    ]


def _format_prediction(path: Path, found: list[dict[str, Any]]) -> str:
    """Format the most probable classes of an image, one line per class."""
    rows = [f"  {100 * one['probability']:6.2f} %  {one['class']}  {one['name'] or ''}".rstrip() for one in found]
    return "\n".join([f"{path}", *rows])


def _format_prediction_json(path: Path, found: list[dict[str, Any]]) -> str:
    return json.dumps({"image": str(path), "classes": found}, allow_nan=False)
