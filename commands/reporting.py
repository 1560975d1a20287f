"""``preview`` and ``report``: what the network will see, and a data set or a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.group import command
from commands.options import FILE, PLACE, cache_option, cache_size_option, device_option, order_option, quiet_option
from commands.streams import class_names_of, stream_of

A_ROW = 8  # pictures


@command()
@click.argument("data", type=PLACE)
@click.option(
    "--out", default=Path("preview.png"), show_default=True, type=FILE, help="The picture to write, or a PDF or SVG."
)
@click.option(
    "--key", "keys", multiple=True, help="Show this training sample as it is seen in its first epochs; repeat it."
)
@click.option(
    "--same", default=0, type=click.IntRange(0), metavar="N", help="The same of N samples, chosen by the seed."
)
@click.option("--epochs", default=8, show_default=True, type=click.IntRange(1), help="How many, of --key and --same.")
@click.option(
    "--count", default=32, show_default=True, type=click.IntRange(1, 512), help="Images, without --key and --same."
)
@click.option("--step", default=0, show_default=True, type=click.IntRange(0), help="The step that they begin with.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Of a step, as for train.")
@click.option("--seed", default=1, show_default=True, help="Seed of order and augmentation, as for train.")
@click.option(
    "--augment",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "original", "inception", "none"]),
    help="As for train.",
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
    """Draw what the network will see: images of the training stream, with the mean image put back.

    Without --key and --same, the first images of the stream. With them, a row a sample and a column an epoch: what
    crops, flips and colour noise make of the same image. The stream is that of train with the same options, so these
    are the images of that training. Python: pipeline.preview.Preview.

    \b
    Examples:
      cli.py preview shards/
      cli.py preview shards/ --step 1000 --out later.png
      cli.py preview shards/ --same 4 --augment original
      cli.py preview shards/ --key cat_003 --epochs 12
    """
    from pipeline.preview import Preview
    from trainer.pictures import check_place, save_sheet

    check_place(out)
    options = {"batch_size": batch_size, "seed": seed, "augmentation": augment, "order": order}
    stream = stream_of(data, None, **options, cache=cache, cache_bytes=cache_size)
    facts = stream.facts()
    seen = Preview.of(stream)
    what = f"{data}, augmentation {augment}, order {order}, seed {seed}"
    if keys or same:
        rows = _by_epoch(seen, _asked(stream, keys, same), epochs)
        heading = f"{len(rows)} training sample(s) in epochs 1 to {epochs}"
    else:
        rows = _contact_sheet(seen, class_names_of(stream), count, step)
        heading = f"Training images from step {step:,} on, as the network sees them"
    save_sheet(rows, heading, what, out)
    if not quiet:
        click.echo(f"{out}: {sum(map(len, rows))} images, of {facts.num_train:,} training images")


@command()
@click.argument("folder", metavar="DIR", type=PLACE)
@click.option(
    "--data", default=None, type=PLACE, help="Of a run: its data set. [default: the one that its config.toml names]"
)
@click.option(
    "--src", "source", default=None, type=FILE, help="Where the images came from, to show files that were refused."
)
@click.option(
    "--out", default=None, type=FILE, help="The file to write. [default: report.html in DIR, or beside it for a split]"
)
@click.option(
    "--neighbours",
    "queries",
    default=4,
    show_default=True,
    type=click.IntRange(0),
    help="Of a run: validation images whose nearest training images are searched; 0 saves a pass over those.",
)
@device_option
@cache_option
@cache_size_option
@quiet_option
def report(
    folder: Path,
    data: Path | None,
    source: Path | None,
    out: Path | None,
    queries: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    quiet: bool,
) -> None:
    """Put everything about a data set or a run of train on one page: a single HTML file that needs nothing else.

    Of a data set: counts, classes, sizes, refused files, mean image and colour axes, and what augmentation makes of an
    image. Of a run also its curves, where its time went, its kernels, its worst mistakes, accuracy by class, nearest
    images, and how to do it again. The validation split is scored once. Python: report.compose.write.

    \b
    Examples:
      cli.py report shards/
      cli.py report runs/alexnet
      cli.py report runs/alexnet --data shards/ --out alexnet.html --neighbours 0
    """
    from report.compose import write
    from report.subject import Request

    request = Request(
        folder=folder,
        data=data,
        source=source,
        queries=queries,
        device=device,
        cache=cache,
        cache_bytes=cache_size,
        quiet=quiet,
    )
    path, size = write(request, out)
    click.echo(f"{path}: {size / 2**20:.1f} MiB, one file")


def _contact_sheet(seen: Any, names: tuple[str, ...], count: int, step: int) -> list[list[Any]]:
    """The first images of the stream, in rows, with their classes below them."""
    from trainer.pictures import Captioned

    cells = [
        Captioned(pixels_SSC=one.pixels_HWC, lines=(names[one.label], f"epoch {one.epoch + 1}"))
        for one in seen.batches(count, step)
    ]
    return [cells[i : i + A_ROW] for i in range(0, len(cells), A_ROW)]


def _by_epoch(seen: Any, samples: list[tuple[int, str, str]], epochs: int) -> list[list[Any]]:
    """A row for each sample (id, key, class): how it is seen in each epoch."""
    from trainer.pictures import Captioned

    return [
        [
            Captioned(pixels_SSC=one.pixels_HWC, lines=(f"{name}, epoch {one.epoch + 1}", key))
            for one in seen.sample(sample, range(epochs))
        ]
        for sample, key, name in samples
    ]


def _asked(stream: Any, keys: tuple[str, ...], same: int) -> list[tuple[int, str, str]]:
    """Id, key and class of the training samples that are meant; ``same`` of them chosen, if there are no keys."""
    from sharding.lookup import Lookup
    from trainer.neighbours import Split, choose

    training = Split(name="train", catalog=Lookup.of(stream.train), data=stream)
    names = class_names_of(stream)
    chosen = [i for _, i in choose([training], keys, same, stream.seed)]
    return [(i, str(training.catalog.keys[i]), names[training.catalog.label(i)]) for i in chosen]
