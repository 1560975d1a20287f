"""Commands that make, verify and describe data sets: shard, verify, info, stats, sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from alexstream.commands.group import command
from alexstream.commands.options import (
    FOLDER_PARAM,
    LOCATION_PARAM,
    SOURCE_PARAM,
    FolderLevelParam,
    encode_option,
    quiet_option,
    takes_data,
    workers_option,
)
from alexstream.commands.streams import find_split_folder
from alexstream.core.errors import DatasetError
from alexstream.core.extras import require_extra
from alexstream.core.program import program_name
from alexstream.core.text import count_of

_SHARD_GROUPS = {
    "Source and output": ("src", "out", "split", "val-share", "seed", "fetch"),
    "Classes and labels": ("classes", "classes-at", "list-classes", "labels", "label-columns", "labels-partial"),
    "How images are stored": ("encode", "size", "resize-filter", "quality", "chroma"),
    "Files that are no images": ("on-bad", "max-bad"),
    "Running": ("dry-run", "workers", "executor", "quiet"),
}


@command(writes_files=True, groups=_SHARD_GROUPS)
@click.option(
    "--src",
    required=True,
    type=SOURCE_PARAM,
    help="Where the images are: a folder, a tar, an s3:// address or a list of tars, in one of the forms listed above.",
)
@click.option(
    "--out",
    required=True,
    type=LOCATION_PARAM,
    help="Folder to write the data set to: OUT/train, OUT/val … if --src has splits, or OUT itself if it has none.",
)
@click.option(
    "--split",
    default=None,
    type=click.Choice(["train", "val", "test"]),
    help="What to call the images if --src has no splits. [default: train, or the name of --src if it is a split's]",
)
@click.option(
    "--seed", default=2012, show_default=True, help="Number that decides the order in which the images are stored."
)
@click.option(
    "--classes",
    "classes_file",
    default=None,
    type=FOLDER_PARAM,
    help="Classes in label order: a text file with one class per line, a classes.json, a map of index and name, or a "
    "data set. [default: sorted by name]",
)
@click.option(
    "--labels",
    "labels_file",
    default=None,
    type=LOCATION_PARAM,
    help="Table of files and their classes (CSV, TSV or JSON lines), for images without class folders.",
)
@click.option(
    "--label-columns",
    default="",
    help="Names of the columns of --labels to read: FILE,CLASS or FILE,CLASS,SPLIT. [default: guessed from its header]",
)
@click.option(
    "--labels-partial",
    is_flag=True,
    help="Leave out images that have no row in --labels, and rows that have no image; otherwise both are an error.",
)
@encode_option
@click.option(
    "--size",
    default=256,
    show_default=True,
    type=click.IntRange(224, 4096),
    help="Side of the stored square images, in pixels: an image is scaled until its shorter side has so many, and the "
    "rest of the longer one is cut off. Training then crops 224 of them.",
)
@click.option(
    "--resize-filter",
    default="lanczos",
    show_default=True,
    type=click.Choice(["lanczos", "bicubic", "bilinear", "box"]),
    help="Filter for resizing; all are antialiased.",
)
@click.option(
    "--quality", default=95, show_default=True, type=click.IntRange(1, 100), help="Quality of the stored JPEGs."
)
@click.option(
    "--chroma",
    default="4:2:0",
    show_default=True,
    type=click.Choice(["4:2:0", "4:2:2", "4:4:4"]),
    help="How finely the stored JPEGs hold colors: 4:4:4 as finely as brightness, 4:2:0 half as finely both ways.",
)
@click.option(
    "--on-bad",
    default="quarantine",
    show_default=True,
    type=click.Choice(["quarantine", "fail"]),
    help="What to do with files that are not usable images. quarantine: list them in quarantine.jsonl and go on. "
    "fail: stop at the first one.",
)
@click.option(
    "--executor",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="What does the work. local: processes on this machine. ray: the Ray cluster that RAY_ADDRESS names.",
)
@click.option(
    "--max-bad",
    default=None,
    type=click.IntRange(0),
    metavar="N",
    help="Stop when more than N files are not usable images: then something else is wrong. [default: never]",
)
@click.option(
    "--val-share",
    default=0.0,
    type=click.FloatRange(0, 1, max_open=True),
    help="Hold out this share of every class for validation, as OUT/val beside OUT/train. For sources without a "
    "validation split; the images stay where they are. [default: none]",
)
@click.option(
    "--classes-at",
    default=None,
    type=FolderLevelParam(),
    help="How deep the class folders lie in --src, or in a split's folder. 1: cat/; 2: berlin/cat/; and so on; last: "
    "the folders that hold the images; 0: each tar is a class. [default: detected]",
)
@click.option(
    "--list-classes",
    is_flag=True,
    help="List every class with its label and number of images, not only the first and last ones.",
)
@click.option(
    "--fetch",
    "fetch_to",
    default=None,
    type=FOLDER_PARAM,
    help="Folder for tars that --src names by commands (pipe:) or web addresses: they are copied there first, except "
    "those that are there already.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; print the plan with its estimated size and duration.")
@workers_option
@quiet_option
def shard(list_classes: bool, dry_run: bool, quiet: bool, **given: Any) -> None:
    """Convert a source of images to WebDataset shards, with exact statistics of the stored pixels.

    Every image is resized to 256 pixels on its shorter side, cropped to the central 256x256 and stored as JPEG. Files
    that are not usable images are listed in quarantine.jsonl with the reason. The output depends on the images,
    labels, seed and encoding alone, byte for byte. Run the same command again to continue a conversion that was
    interrupted. Archives are read without unpacking them. Python: alexstream.shard.

    The splits, the classes and the files left out are printed before anything is converted. If the folders can be
    read in more than one way, nothing is converted: an error lists the possible readings and the option for each.

    \b
    Forms of --src:
      - one folder per class, at any depth, also within split folders (train, Training, seg_train; val, valid, dev;
        test, eval …), in folders or tars; val/ may be flat, next to a devkit or Kaggle's table
      - ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the devkit (.tar.gz or unpacked) in one folder
      - Kaggle's ILSVRC/Data/CLS-LOC, or its tar, with LOC_synset_mapping.txt and LOC_val_solution.csv
      - images without class folders, in folders or tars, with --labels FILE; in folders also next to train.csv,
        labels.csv or val_annotations.txt
      - Hugging Face Parquet files; WebDataset tars; a data set made by this program, to convert it again
      - a list of WebDataset tars: train-{000..146}.tar, a.tar::b.tar, or, with --fetch, web addresses and pipe:COMMAND

    \b
    Examples:
      cli.py shard --src imagenet/ --out shards/
      cli.py shard --src photos/ --out shards/ --val-share 0.1
      cli.py shard --src photos/train --out shards/train --workers 8
      cli.py shard --src imagenet/ --out originals/ --encode keep
      cli.py shard --src photos/ --out shards/ --classes labels.txt --dry-run
      cli.py shard --src sites/ --out shards/ --classes-at 2 --list-classes --dry-run
      cli.py shard --src dogs/train --out shards/ --labels dogs/labels.csv
      cli.py shard --src 'wds/train-{000000..000146}.tar' --out shards/
      cli.py shard --src 'pipe:ssh host cat wds/train-{0..9}.tar' --fetch tars/ --out shards/
      cli.py shard --src s3://bucket/photos --out s3://bucket/shards --executor ray
    """
    from alexstream.core.text import escape_unprintable
    from alexstream.sharding.estimate import estimate_conversion
    from alexstream.sharding.executors.local import hide_pandas
    from alexstream.sharding.pack import convert_splits, describe_result
    from alexstream.sharding.split_plans import Plan, describe_plan

    hide_pandas()
    if dry_run and given["fetch_to"]:
        raise click.UsageError(
            "--dry-run writes nothing, so it fetches no tars: give the folder that has them as --src"
        )
    request = _make_shard_request(quiet=quiet, **given)
    if dry_run:
        return click.echo(estimate_conversion(request, all_classes=list_classes))

    def show(plan: Plan) -> None:
        click.echo("\n".join(map(escape_unprintable, describe_plan(plan, all_classes=list_classes))))

    folders = []
    for folder, manifest, worked in convert_splits(request, quiet=quiet, show=show):
        click.echo(describe_result(folder, manifest, worked))
        folders.append(folder)
    _print_duplicates(folders, request.folder)


def _print_duplicates(folders: Sequence[Path], data: Path) -> None:
    """Print a NOTE for each kind of duplicates in these split folders of ``data``."""
    from alexstream.sharding.duplicates import find_duplicates

    for line in find_duplicates(folders).describe():
        click.echo(f"  NOTE {line} (list them with: {program_name()} info {data} --duplicates)")


def _make_shard_request(
    *,
    src: Path | str,
    fetch_to: Path | None,
    quiet: bool,
    out: Path,
    split: str | None,
    classes_file: Path | None,
    labels_file: Path | None,
    label_columns: str,
    labels_partial: bool,
    encoding: str,
    size: int,
    resize_filter: str,
    quality: int,
    chroma: str,
    on_bad: str,
    max_bad: int | None,
    workers: int,
    **fields: Any,
) -> Any:
    """Return the ShardRequest that the options of ``shard`` ask for; ``fields`` are called as its own."""
    from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
    from alexstream.sharding.sources.labels.class_list import load_classes
    from alexstream.sharding.sources.labels.label_table import parse_label_options
    from alexstream.sharding.sources.tars.tar_list import TarList, open_source
    from alexstream.sharding.split_plans import ShardRequest

    listed = open_source(src, fetch_to=fetch_to, quiet=quiet) if isinstance(src, str) else TarList(src)
    return ShardRequest(
        source=listed.folder,
        tars=listed.tars,
        folder=out,
        split=split or "",
        encode=EncodeRecipe(
            encoding=encoding, size_px=size, resize_filter=resize_filter, quality=quality, chroma=chroma
        ),
        num_workers=workers,
        classes=load_classes(classes_file) if classes_file else None,
        labels=parse_label_options(labels_file, label_columns, partial=labels_partial),
        max_bad=0 if on_bad == "fail" else max_bad,
        **fields,
    )


@command()
@takes_data("data set, or one of its splits; a folder or s3://bucket/folder.")
@click.option("--fast", is_flag=True, help="Check sizes and hashes only; decode no sample.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per split.")
@workers_option
@quiet_option
def verify(data: Path, fast: bool, as_json: bool, workers: int, quiet: bool) -> None:
    """Verify a data set completely: hashes, indexes, every stored sample, labels, keys and statistics.

    All splits in DATA are verified. The exit code is 1 if anything is wrong; each finding names the file.
    Python: alexstream.verify.

    \b
    Examples:
      cli.py verify shards/
      cli.py verify shards/train --fast --json
    """
    from alexstream.sharding.dataset_v1.manifest import list_split_folders
    from alexstream.sharding.verify import verify as prove

    verdicts = [
        prove(folder, fast=fast, num_workers=workers, quiet=quiet) for folder in list_split_folders(data, damaged=True)
    ]
    for verdict in verdicts:
        click.echo(json.dumps(verdict.to_dict(), allow_nan=False) if as_json else verdict.to_text())
    if any(verdict.findings for verdict in verdicts):
        raise DatasetError(f"{data} is not intact; restore the files named above, or shard the source again")
    if not as_json:
        _print_duplicates([verdict.folder for verdict in verdicts], data)


@command()
@takes_data("data set, or one of its splits; a folder or s3://bucket/folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per split.")
@click.option(
    "--list-classes",
    is_flag=True,
    help="List every class with its label and number of images, not only the first and last ones.",
)
@click.option(
    "--duplicates",
    "list_duplicates",
    is_flag=True,
    help="List the images whose files have identical bytes instead: sha256, split, class and path, a line each.",
)
def info(data: Path, as_json: bool, list_classes: bool, list_duplicates: bool) -> None:
    """Describe a data set: counts, classes, encoding, size, and refused files with reasons. Reads no shard.

    Images whose source files have identical bytes are counted, within a split, between splits and under two classes.
    Python: alexstream.sharding.describe.describe_dataset, alexstream.sharding.duplicates.find_duplicates.

    \b
    Examples:
      cli.py info shards/
      cli.py info shards/train --json
      cli.py info shards/ --duplicates > duplicates.tsv
    """
    from dataclasses import asdict

    from alexstream.sharding.dataset_v1.manifest import list_split_folders
    from alexstream.sharding.describe import describe_dataset, facts
    from alexstream.sharding.duplicates import find_duplicates

    folders = list_split_folders(data)
    if list_duplicates:
        for group in find_duplicates(folders).groups:
            for copy in group:
                click.echo(json.dumps(asdict(copy), allow_nan=False) if as_json else copy.to_text())
    elif as_json:
        duplicates = find_duplicates(folders).to_dict()
        for folder in folders:
            click.echo(json.dumps({**facts(folder), "duplicates": duplicates}, allow_nan=False))
    else:
        for folder in folders:
            click.echo(describe_dataset(folder, all_classes=list_classes))
        _print_duplicates(folders, data)


@command()
@takes_data("data set, or one of its splits; a folder or s3://bucket/folder.")
@click.option(
    "--split",
    default=None,
    type=click.Choice(["train", "val", "test"]),
    help="Split of DATA. [default: DATA itself if it is a split, else train]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw the mean image and the principal color axes to this file.",
)
@workers_option
@quiet_option
def stats(data: Path, split: str | None, as_json: bool, plot: Path | None, workers: int, quiet: bool) -> None:
    """Recompute the statistics of a data set from its shards, print them, and compare them bit for bit.

    The exit code is 1 if the stored statistics differ. Python: alexstream.sharding.recompute.check_stats.

    \b
    Examples:
      cli.py stats shards/
      cli.py stats shards/ --plot stats.png
      cli.py stats shards/ --json | jq .eigenvalues_01
    """
    from alexstream.core.storage import check_target
    from alexstream.sharding.plots import format_stats, save_stats_plot, stats_to_dict
    from alexstream.sharding.recompute import check_stats

    if plot is not None:
        require_extra("report", "pictures")
        check_target(plot)
    check = check_stats(
        find_split_folder(data, split or "train", any_split=split is None), num_workers=workers, quiet=quiet
    )
    click.echo(json.dumps(stats_to_dict(check), indent=2, allow_nan=False) if as_json else format_stats(check))
    if plot is not None:
        save_stats_plot(check.stored, check.mean_image_HWC, plot)
        click.echo(f"picture: {plot}", err=True)
    if not check.equal:
        raise DatasetError("the stored statistics differ from those of the shards; shard the source again")


@command(writes_files=True)
@click.option("--out", required=True, type=FOLDER_PARAM, help="Folder to write to; new or empty.")
@click.option(
    "--train-per-class", default=100, show_default=True, type=click.IntRange(1), help="Training images per class."
)
@click.option(
    "--val-per-class", default=20, show_default=True, type=click.IntRange(1), help="Validation images per class."
)
@quiet_option
def sample(out: Path, train_per_class: int, val_per_class: int, quiet: bool) -> None:
    """Generate a small synthetic data set that a network can learn: eight classes of JPEGs, and a few broken files.

    Python: alexstream.sharding.sample_set.write_sample_set.

    \b
    Example:
      cli.py sample --out images/
    """
    from alexstream.sharding.sample_set import write_sample_set

    count = write_sample_set(out, train_per_class=train_per_class, val_per_class=val_per_class, quiet=quiet)
    click.echo(f"{out}: {count_of(count, 'file')} in train/ and val/")
