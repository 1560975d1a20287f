"""The command line: parse, make one call, show the result. ``python cli.py`` and ``alexstream`` are the same."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path

import click

from commands import bench, completion, datasets, doctor, looking, reporting, training
from commands.group import Group
from commands.options import FOLDER
from commands.streams import stream_of
from sharding.errors import AlexstreamError

# Looking for cycles among the million objects of torch's and DALI's modules took half of the time in which they are
# loaded, and longer than anything else when a process ends. Here, so that ranks and workers begin with it, too.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="alexstream")
def main() -> None:
    """Images in, shards and exact statistics out, AlexNet trained on the stream.

    \b
    cli.py shard --src imagenet/ --out shards/
    cli.py stats shards/
    cli.py train --data shards/
    """


COMMANDS = (
    *(datasets.shard, datasets.verify, datasets.info, datasets.stats, datasets.sample, reporting.preview),
    *(training.train, looking.evaluate, looking.predict, looking.kernels, looking.neighbours),
    *(reporting.report, bench.bench, doctor.doctor, completion.completion),
)
for _command in COMMANDS:
    main.add_command(_command)


@main.command()
@click.option(
    "--out",
    default=Path("demo-out"),
    show_default=True,
    type=FOLDER,
    help="New folder for everything the demo makes.",
)
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(1))
def demo(out: Path, epochs: int) -> None:
    """The whole job on the embedded sample set: sample, shard, stats, train, evaluate; about three minutes on 2 cores.

    \b
    Example:
      cli.py demo --out demo-out
    """
    images, shards, run = str(out / "images"), str(out / "shards"), str(out / "run")
    steps = [
        ["sample", "--out", images],
        ["shard", "--src", images, "--out", shards],
        ["stats", shards, "--plot", str(out / "stats.png")],
        ["train", "--data", shards, "--run", run, "--epochs", str(epochs), *["--batch-size", "32", "--log-every", "5"]],
    ]
    for step in steps:
        click.secho(f"\n$ alexstream {' '.join(step)}", bold=True)
        main.main(step, prog_name="alexstream", standalone_mode=False)
    click.secho(f"\n$ alexstream evaluate --data {shards} --checkpoint {run}", bold=True)
    _demo_summary(out, Path(shards), Path(run))


def _demo_summary(out: Path, shards: Path, run: Path) -> None:
    import torch

    from trainer.evaluate import evaluate_checkpoint

    stream = stream_of(shards, None)
    score, classes = evaluate_checkpoint(stream, run, torch.device("cpu")), stream.facts().classes
    chance = 1 / len(classes)
    click.echo(score.line())
    click.echo(
        f"\nMade in {out}:\n"
        f"  images/      the sample set, {len(classes)} classes, six odd files among them\n"
        f"  shards/      train and val as WebDataset shards; refused files: shards/train/quarantine.jsonl\n"
        f"  stats.png    mean image and colour axes\n"
        f"  run/         checkpoints and metrics.jsonl\n"
        f"Validation top-1 {100 * score.top1:.1f} %, chance is {100 * chance:.1f} %."
    )
    if score.top1 < 2 * chance:
        raise AlexstreamError("the network did not learn: validation accuracy is not above twice chance")


if __name__ == "__main__":
    sys.exit(main(prog_name="cli.py"))
