"""Entry point of the command line, as ``python cli.py`` and as ``alexstream``."""

from __future__ import annotations

import atexit
import gc
import logging
from pathlib import Path

import click

from alexstream.commands import bench, completion, datasets, doctor, evaluation, reporting, training
from alexstream.commands.group import Group
from alexstream.commands.options import FOLDER_PARAM
from alexstream.commands.streams import choose_device, make_stream
from alexstream.core.errors import AlexstreamError
from alexstream.core.extras import has_extra

# Collecting garbage among the million objects of torch's and DALI's modules took half of their import time, and most of
# the time in which a process ends. Set here so that spawned ranks and workers, which import this module, have it too.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)
# matplotlib warns in every run of a user without a home folder, where its font cache cannot be written.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="alexstream")
def main() -> None:
    """Convert images to shards with exact statistics, and train AlexNet on the augmented stream.

    \b
    cli.py shard --src imagenet/ --out shards/
    cli.py stats shards/
    cli.py train --data shards/
    """


COMMANDS = (
    *(datasets.shard, datasets.verify, datasets.info, datasets.stats, datasets.sample, reporting.preview),
    *(training.train, evaluation.evaluate, evaluation.predict, evaluation.kernels, evaluation.neighbours),
    *(reporting.report, bench.bench, doctor.doctor, completion.completion),
)
for _command in COMMANDS:
    main.add_command(_command)


MISSING_PICTURE = " (not drawn: pip install 'alexstream[report]')"


@main.command(writes_files=True)
@click.option(
    "--out",
    default=Path("demo-out"),
    show_default=True,
    type=FOLDER_PARAM,
    help="New folder for all output of the demo.",
)
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(1), help="Epochs to train.")
def demo(out: Path, epochs: int) -> None:
    """Run all stages on a generated sample set: sample, shard, stats, train, evaluate. Three minutes on 2 cores.

    \b
    Example:
      cli.py demo --out demo-out
    """
    plot = ["--plot", str(out / "stats.png")] if has_extra("report") else []
    images, shards, run = str(out / "images"), str(out / "shards"), str(out / "run")
    steps = [
        ["sample", "--out", images],
        ["shard", "--src", images, "--out", shards],
        ["stats", shards, *plot],
        ["train", "--data", shards, "--run", run, "--epochs", str(epochs), *["--batch-size", "32", "--log-every", "5"]],
    ]
    for step in steps:
        click.secho(f"\n$ alexstream {' '.join(step)}", bold=True)
        main.main(step, prog_name="alexstream", standalone_mode=False)
    click.secho(f"\n$ alexstream evaluate --data {shards} --checkpoint {run}", bold=True)
    _print_demo_summary(out, Path(shards), Path(run))


def _print_demo_summary(out: Path, shards: Path, run: Path) -> None:
    from alexstream.trainer.evaluation.evaluate import evaluate_checkpoint

    stream = make_stream(shards, None)
    score, classes = evaluate_checkpoint(stream, run, choose_device("cpu")), stream.facts().classes
    chance = 1 / len(classes)
    click.echo(f"validation {score.to_text(len(classes))}")
    click.echo(
        f"\nMade in {out}:\n"
        f"  images/      the sample set, {len(classes)} classes and six unusual files\n"
        f"  shards/      train and val as WebDataset shards; refused files: shards/train/quarantine.jsonl\n"
        f"  stats.png    mean image and color axes{'' if has_extra('report') else MISSING_PICTURE}\n"
        f"  run/         checkpoints and metrics.jsonl\n"
        f"Validation top-1 {100 * score.top1:.1f} %, chance is {100 * chance:.1f} %."
    )
    if score.top1 < 2 * chance:
        raise AlexstreamError("the network did not learn: validation accuracy is not above twice chance")
