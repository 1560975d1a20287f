"""``preview`` and ``report``: draw augmented training images; describe a data set or a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from alexstream.commands.group import command, name_program
from alexstream.commands.options import (
    FILE_PARAM,
    LOCATION_PARAM,
    cache_option,
    cache_size_option,
    choose_place,
    device_option,
    order_option,
    quiet_option,
    takes_data,
)
from alexstream.commands.streams import load_class_names, make_stream, tell_missing_letters
from alexstream.core.extras import require_extra
from alexstream.core.text import count_of

IMAGES_PER_ROW = 8  # pictures


@command(writes_files=True)
@takes_data("data set, or its training split; a folder or s3://bucket/folder.")
@click.option(
    "--out", default=Path("preview.png"), show_default=True, type=FILE_PARAM, help="Picture to write: PNG, PDF or SVG."
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Draw the training image with this key in such a row. Repeat for several.",
)
@click.option(
    "--same",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Draw N training images, a row each: as they look in the first epoch, in the second …",
)
@click.option(
    "--epochs", default=8, show_default=True, type=click.IntRange(1), help="Length of the rows of --same and --key."
)
@click.option(
    "--count",
    default=32,
    show_default=True,
    type=click.IntRange(1, 512),
    help="Images to draw, if --same and --key are not given.",
)
@click.option(
    "--step",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Training step to begin at, if --same and --key are not given.",
)
@click.option(
    "--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Images per step, as for train."
)
@click.option("--seed", default=1, show_default=True, help="Seed for order and augmentation, as for train.")
@click.option(
    "--augment",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "original", "inception", "none"]),
    help="Augmentation, as for train.",
)
@order_option
@cache_option
@cache_size_option
@quiet_option
def preview(
    data: Path,
    out: Path,
    keys: tuple[str, ...],
    same: int,
    epochs: int,
    count: int,
    step: int,
    batch_size: int,
    seed: int,
    augment: str,
    order: str,
    cache: Path | None,
    cache_size: int,
    quiet: bool,
) -> None:
    """Draw augmented images of the training stream, as the network will see them, with the mean image added back.

    Without --key and --same it draws the first images of the stream. With them it draws one row per sample and one
    column per epoch, to show what crops, flips and color noise do to one image. train with the same options gets
    exactly these images. Python: alexstream.pipeline.preview.Preview.

    \b
    Examples:
      cli.py preview shards/
      cli.py preview shards/ --step 1000 --out later.png
      cli.py preview shards/ --same 4 --augment original
      cli.py preview shards/ --key cat_003 --epochs 12
    """
    from alexstream.pipeline.preview import Preview
    from alexstream.trainer.evaluation.pictures import check_picture_path, save_sheet

    check_picture_path(out)
    options = {"batch_size": batch_size, "seed": seed, "augmentation": augment, "order": order}
    stream = make_stream(data, None, **options, cache=cache, cache_bytes=cache_size)
    facts = stream.facts()
    seen = Preview.from_data(stream)
    what = f"{data}, augmentation {augment}, order {order}, seed {seed}"
    if keys or same:
        rows = _make_epoch_rows(seen, _choose_samples(stream, keys, same), epochs)
        heading = f"{count_of(len(rows), 'training sample')} in epochs 1 to {epochs}"
    else:
        rows = _make_contact_sheet(seen, load_class_names(stream), count, step)
        heading = f"Training images from step {step:,} on, as the network sees them"
    missing = save_sheet(rows, heading, what, out)
    if not quiet:
        tell_missing_letters(missing, out)
        click.echo(f"{out}: {count_of(sum(map(len, rows)), 'image')}, of {count_of(facts.num_train, 'training image')}")


@command(writes_files=True)
@click.argument("folder", metavar="DIR", required=False, type=LOCATION_PARAM)
@click.option("--run", default=None, type=LOCATION_PARAM, help="The same as DIR: a run folder.")
@click.option(
    "--data",
    default=None,
    type=LOCATION_PARAM,
    help="Data set of the run [default: the one named in its config.toml]; without DIR and --run, the data set to "
    "report on.",
)
@click.option(
    "--src",
    "source",
    default=None,
    type=FILE_PARAM,
    help="Folder or tar that the data set was made from, if it still exists: refused files are then shown as pictures.",
)
@click.option(
    "--out",
    default=None,
    type=FILE_PARAM,
    help="HTML file to write. [default: report.html in DIR, or next to DIR if it is a split]",
)
@click.option(
    "--neighbours",
    "queries",
    default=4,
    show_default=True,
    type=click.IntRange(0),
    help="Of a run: validation images whose nearest training images are shown; 0 saves this pass over the training "
    "set.",
)
@device_option
@cache_option
@cache_size_option
@quiet_option
def report(
    folder: Path | None,
    run: Path | None,
    data: Path | None,
    source: Path | None,
    out: Path | None,
    queries: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    quiet: bool,
) -> None:
    """Write a report about a data set or a training run: one self-contained HTML file.

    For a data set it shows counts, classes, sizes, refused files, the mean image, the color axes and examples of
    augmentation. For a run it adds learning curves, time per stage, kernels, the worst mistakes, accuracy by class,
    nearest images, and the commands to reproduce it. The validation split is evaluated once.
    Python: alexstream.report.compose.write_report.

    \b
    Examples:
      cli.py report shards/
      cli.py report runs/alexnet
      cli.py report runs/alexnet --data shards/ --out alexnet.html --neighbours 0
    """
    require_extra("report", "reports")
    from alexstream.report.compose import write_report
    from alexstream.report.subject import ReportRequest

    context = click.get_current_context()
    folder = choose_place(context, "run", folder)
    if folder is None:
        folder, data = data, None
    if folder is None:
        raise click.MissingParameter(ctx=context, param_hint="'DIR', '--run' or '--data'", param_type="argument")
    request = ReportRequest(
        folder=folder,
        data=data,
        source=source,
        queries=queries,
        device=device,
        cache=cache,
        cache_bytes=cache_size,
        quiet=quiet,
        program=name_program("cli.py report").removesuffix(" report"),
    )
    path, size = write_report(request, out)
    click.echo(f"{path}: {size / 2**20:.1f} MiB, one file", err=not path.is_file())  # the page itself may go to stdout


def _make_contact_sheet(seen: Any, names: tuple[str, ...], count: int, step: int) -> list[list[Any]]:
    """Return the first ``count`` images of the stream from step ``step`` on, in rows, with their classes."""
    from alexstream.trainer.evaluation.pictures import CaptionedImage

    cells = [
        CaptionedImage(pixels_SSC=one.pixels_HWC, lines=(names[one.label], f"epoch {one.epoch + 1}"))
        for one in seen.take_images(count, step)
    ]
    return [cells[i : i + IMAGES_PER_ROW] for i in range(0, len(cells), IMAGES_PER_ROW)]


def _make_epoch_rows(seen: Any, samples: list[tuple[int, str, str]], epochs: int) -> list[list[Any]]:
    """Return one row per sample (id, key, class): its augmented image in each epoch."""
    from alexstream.trainer.evaluation.pictures import CaptionedImage

    return [
        [
            CaptionedImage(pixels_SSC=one.pixels_HWC, lines=(f"{name}, epoch {one.epoch + 1}", key))
            for one in seen.sample(sample, range(epochs))
        ]
        for sample, key, name in samples
    ]


def _choose_samples(stream: Any, keys: tuple[str, ...], same: int) -> list[tuple[int, str, str]]:
    """Return (id, key, class) of the training samples with these keys, or of ``same`` chosen ones without keys."""
    from alexstream.sharding.lookup import SampleLookup
    from alexstream.trainer.evaluation.neighbors import Split, choose_queries

    training = Split(name="train", catalog=SampleLookup.from_folder(stream.train), data=stream)
    names = load_class_names(stream)
    chosen = [i for _, i in choose_queries([training], keys, same, stream.seed)]
    return [(i, str(training.catalog.keys[i]), names[training.catalog.label(i)]) for i in chosen]
