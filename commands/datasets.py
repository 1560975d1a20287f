"""Data sets: made, proved, described."""

from __future__ import annotations

import json
from pathlib import Path

import click

from commands.group import command
from commands.options import FOLDER, PLACE, encode_option, quiet_option, workers_option
from commands.streams import resolve
from sharding.errors import DatasetError


@command()
@click.option("--src", required=True, type=PLACE, help="The images, in any of the forms below; told by content.")
@click.option(
    "--out",
    required=True,
    type=PLACE,
    help="Folder for the data set; train/ and val/ below it if --src has them.",
)
@click.option(
    "--split",
    default=None,
    type=click.Choice(["train", "val", "test"]),
    help="Name of the split [default: --src's own name, else train].",
)
@click.option("--seed", default=2012, show_default=True, help="Seed of the global shuffle.")
@click.option(
    "--classes",
    "classes_file",
    default=None,
    type=FOLDER,
    help="Label order: one class a line, a classes.json, or a data set [default: sorted].",
)
@encode_option
@click.option(
    "--size",
    default=256,
    show_default=True,
    type=click.IntRange(224, 4096),
    help="Side of the stored squares, in pixels.",
)
@click.option(
    "--resize-filter",
    default="lanczos",
    show_default=True,
    type=click.Choice(["lanczos", "bicubic", "bilinear", "box"]),
    help="Antialiasing filter.",
)
@click.option("--quality", default=95, show_default=True, type=click.IntRange(1, 100), help="JPEG quality.")
@click.option(
    "--chroma",
    default="4:2:0",
    show_default=True,
    type=click.Choice(["4:2:0", "4:2:2", "4:4:4"]),
    help="Chroma subsampling of the JPEGs.",
)
@click.option(
    "--on-bad",
    default="quarantine",
    show_default=True,
    type=click.Choice(["quarantine", "fail"]),
    help="What a file that is no usable image does: go into quarantine.jsonl, or end the conversion.",
)
@click.option(
    "--executor",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="Processes of this machine, or tasks of Ray: of the cluster in RAY_ADDRESS, else of a private one.",
)
@click.option("--max-bad", default=None, type=click.IntRange(0), help="End the conversion if more files are bad.")
@click.option("--dry-run", is_flag=True, help="Write nothing; show the plan, the size and the time it would take.")
@workers_option
@quiet_option
def shard(
    src: Path,
    out: Path,
    split: str | None,
    seed: int,
    classes_file: Path | None,
    encoding: str,
    size: int,
    resize_filter: str,
    quality: int,
    chroma: str,
    on_bad: str,
    max_bad: int | None,
    executor: str,
    dry_run: bool,
    workers: int,
    quiet: bool,
) -> None:
    """Turn images, in whatever form they come, into WebDataset shards with exact statistics.

    Every image is scaled to 256 pixels on its shorter side, cropped to the central 256x256, stored as JPEG and
    decoded again; files that are no images are listed in quarantine.jsonl with the reason. The bytes written
    depend on the images, labels, seed and encoding alone. A conversion that was interrupted or killed is continued
    by the same command, to the same bytes. Nothing is unpacked. Python: sharding.pack.shard_all.

    \b
    Forms of --src:
      one folder per class, or train/ and val/ with such folders; val/ may be flat, beside a devkit or a list
      ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the devkit (.tar.gz or unpacked) in one folder
      Kaggle's ILSVRC/Data/CLS-LOC with LOC_synset_mapping.txt and LOC_val_solution.csv
      Hugging Face Parquet files; WebDataset tars; a data set of this program (to shard it anew)

    \b
    Examples:
      cli.py shard --src imagenet/ --out shards/
      cli.py shard --src photos/train --out shards/train --workers 8
      cli.py shard --src imagenet/ --out originals/ --encode keep
      cli.py shard --src photos/ --out shards/ --classes labels.txt --dry-run
      cli.py shard --src s3://bucket/photos --out s3://bucket/shards --executor ray
    """
    from sharding.forecast import forecast
    from sharding.layout import EncodeRecipe
    from sharding.pack import ShardRequest, shard_all, summary
    from sharding.sources.class_list import classes_from
    from sharding.workers import without_pandas

    without_pandas()
    request = ShardRequest(
        source=src,
        folder=out,
        split=split or "",
        seed=seed,
        encode=EncodeRecipe(
            encoding=encoding, size_px=size, resize_filter=resize_filter, quality=quality, chroma=chroma
        ),
        num_workers=workers,
        classes=classes_from(classes_file) if classes_file else None,
        max_bad=0 if on_bad == "fail" else max_bad,
        executor=executor,
    )
    if dry_run:
        return click.echo(forecast(request))
    for folder, manifest, worked in shard_all(request, quiet=quiet):
        click.echo(summary(folder, manifest, worked))


@command()
@click.argument("data", type=PLACE)
@click.option("--fast", is_flag=True, help="Sizes and hashes only; no sample is decoded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a split.")
@workers_option
@quiet_option
def verify(data: Path, fast: bool, as_json: bool, workers: int, quiet: bool) -> None:
    """Prove a data set again: hashes, indexes against the tars, every sample, labels, keys, statistics.

    Every split in DATA is verified. Exit code 1 if anything is not as it should be; each finding names the file.
    Python: sharding.verify.verify.

    \b
    Examples:
      cli.py verify shards/
      cli.py verify shards/train --fast --json
    """
    from sharding.layout import split_folders_of
    from sharding.verify import verify as prove

    verdicts = [
        prove(folder, fast=fast, num_workers=workers, quiet=quiet) for folder in split_folders_of(data, damaged=True)
    ]
    for verdict in verdicts:
        click.echo(json.dumps(verdict.json()) if as_json else verdict.lines())
    if any(verdict.findings for verdict in verdicts):
        raise DatasetError(f"{data} is not intact; restore the files named above, or shard the source again")


@command()
@click.argument("data", type=PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a split.")
def info(data: Path, as_json: bool) -> None:
    """Say what a data set is: counts, classes, recipe, size, what was refused and why. Reads no shard.

    Python: sharding.describe.describe.

    \b
    Examples:
      cli.py info shards/
      cli.py info shards/train --json
    """
    from sharding.describe import describe, facts
    from sharding.layout import split_folders_of

    for folder in split_folders_of(data):
        click.echo(json.dumps(facts(folder)) if as_json else describe(folder))


@command()
@click.argument("data", type=PLACE)
@click.option(
    "--split",
    default=None,
    type=click.Choice(["train", "val", "test"]),
    help="Which split of DATA [default: DATA itself if it is one, else train].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a picture of the mean image and the colour axes.",
)
@workers_option
@quiet_option
def stats(data: Path, split: str | None, as_json: bool, plot: Path | None, workers: int, quiet: bool) -> None:
    """Show the statistics of a data set, recomputed from its shards and compared to the bit.

    Exit code 1 if anything differs. Python: sharding.recompute.check_stats.

    \b
    Examples:
      cli.py stats shards/
      cli.py stats shards/ --plot stats.png
      cli.py stats shards/ --json | jq .eigenvalues_01
    """
    from sharding.plots import save_stats_picture, stats_json, stats_table
    from sharding.recompute import check_stats

    check = check_stats(resolve(data, split or "train", any_split=split is None), num_workers=workers, quiet=quiet)
    click.echo(json.dumps(stats_json(check), indent=2) if as_json else stats_table(check))
    if plot is not None:
        save_stats_picture(check.stored, check.mean_image_HWC, plot)
        click.echo(f"picture: {plot}", err=True)
    if not check.equal:
        raise DatasetError("the stored statistics are not those of the shards; shard the source again")


@command()
@click.option("--out", required=True, type=FOLDER, help="Empty or new folder.")
@click.option("--train-per-class", default=100, show_default=True, type=click.IntRange(1))
@click.option("--val-per-class", default=20, show_default=True, type=click.IntRange(1))
@quiet_option
def sample(out: Path, train_per_class: int, val_per_class: int, quiet: bool) -> None:
    """Draw a small learnable data set: eight classes of photo-like JPEGs, with a few broken files among them.

    Python: sharding.sample_set.write_sample_set.

    \b
    Example:
      cli.py sample --out images/
    """
    from sharding.sample_set import write_sample_set

    count = write_sample_set(out, train_per_class=train_per_class, val_per_class=val_per_class, quiet=quiet)
    click.echo(f"{out}: {count} files in train/ and val/")
