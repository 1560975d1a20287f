"""``train``: the network, on the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.group import command, effective_config
from commands.options import (
    FOLDER,
    PLACE,
    cache_option,
    cache_size_option,
    compile_option,
    decoder_option,
    devices_option,
    order_option,
    precision_option,
    quiet_option,
    recipe_option,
)
from commands.streams import stream_of

# Flag → what it changes in the recipe, and its help.
_ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "--tanh": ({"activation": "tanh"}, "Ablation, section 3.1: tanh in place of ReLU."),
    "--no-lrn": ({"lrn": False}, "Ablation, section 3.3: no response normalisation."),
    "--no-overlap": ({"pool_size": 2}, "Ablation, section 3.4: pooling over 2x2 places, not 3x3."),
    "--no-dropout": ({"dropout": 0.0}, "Ablation, section 4.2: no dropout."),
    "--no-crops": ({}, "Ablation, section 4.1: no random crops, no flips."),
    "--no-lighting": ({}, "Ablation, section 4.1: no colour noise."),
    "--half": ({"columns": 1}, "Ablation, section 3.2: the net of one GPU."),
    "--no-talk": ({"columns_talk": False}, "Ablation: columns that never exchange."),
    "--sixth-conv": ({"sixth_conv": True}, "Section 6: a sixth convolution, over the last pooling."),
}


def ablation_options(command: Any) -> Any:
    """The paper's experiments, one flag each."""
    command = click.option(
        "--remove", "removed", default="", metavar="LAYER", help="Ablation, section 7: without conv2, 3, 4 or conv5."
    )(command)
    for flag, (_, text) in reversed(_ABLATIONS.items()):
        command = click.option(flag, is_flag=True, help=text)(command)
    return command


def _changes(flags: dict[str, bool]) -> dict[str, Any]:
    """What the flags that were given change in the recipe."""
    given = {f"--{name.replace('_', '-')}" for name, is_given in flags.items() if is_given}
    return {field: value for flag in given for field, value in _ABLATIONS[flag][0].items()}


@command()
@click.option(
    "--data",
    required=True,
    type=PLACE,
    help="Data set: a folder (or s3://bucket/folder) with train/ and val/, or a training split.",
)
@click.option("--val", default=None, type=PLACE, help="Validation split, if it is not in --data.")
@click.option(
    "--run",
    "run_folder",
    default=Path("runs/alexnet"),
    show_default=True,
    type=FOLDER,
    help="Folder for checkpoints and metrics.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --run from its newest checkpoint.")
@devices_option
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto: GPUs if there are enough.",
)
@recipe_option
@click.option("--epochs", default=None, type=click.IntRange(1), help="Default: 90; of --recipe original, 93.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(2))
@click.option(
    "--lr",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="First learning rate.",
)
@click.option(
    "--patience",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Epochs without a better validation error before the rate is divided by 10.",
)
@click.option(
    "--drop-after",
    default=None,
    metavar="EPOCHS",
    help="Divide the rate by 10 after these epochs, as 25,50,75, whatever the validation error.",
)
@precision_option
@compile_option
@click.option(
    "--init-from",
    default=None,
    type=FOLDER,
    help="Start from a checkpoint's parameters (fine-tuning); fc8 anew if the number of classes differs.",
)
@ablation_options
@click.option(
    "--width",
    default=1.0,
    show_default=True,
    help="Layers as wide as this part of the paper's (1, 0.5, 0.25, 0.125): a small network, to try things out.",
)
@click.option(
    "--augment",
    default=None,
    type=click.Choice(["paper", "original", "inception", "none"]),
    help="paper: crop, flip and lighting of each image. original: as the program of 2012 did, one crop for 32 images. "
    "inception: boxes of any size, for --encode keep. none: the centre.  [default: as --recipe]",
)
@order_option
@click.option("--seed", default=1, show_default=True, help="Seed of weights, order, augmentation and dropout.")
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(0),
    show_default=True,
    help="Decoding threads per process; 0: cores / devices.",
)
@click.option(
    "--on-bad-sample",
    default="fail",
    show_default=True,
    type=click.Choice(["fail", "skip"]),
    help="What a damaged sample does: end the run, or be passed over and logged.",
)
@decoder_option
@cache_option
@cache_size_option
@click.option(
    "--log-every", default=10, show_default=True, type=click.IntRange(1), help="Steps between progress lines."
)
@click.option(
    "--checkpoint-every",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Steps between checkpoints; 0: at epoch ends only.",
)
@click.option("--keep", default=2, show_default=True, type=click.IntRange(1), help="Checkpoints that stay.")
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long a rank waits for another one before the run ends.",
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files into the run folder too.")
@quiet_option
def train(
    data: Path,
    val: Path | None,
    run_folder: Path,
    resume: bool,
    devices: int,
    device: str,
    recipe: str,
    epochs: int | None,
    batch_size: int,
    lr: float,
    patience: int,
    drop_after: str | None,
    precision: str,
    compiled: bool,
    init_from: Path | None,
    augment: str | None,
    order: str,
    seed: int,
    threads: int,
    on_bad_sample: str,
    decoder: str,
    cache: Path | None,
    cache_size: int,
    log_every: int,
    checkpoint_every: int,
    keep: int,
    timeout: float,
    tensorboard: bool,
    quiet: bool,
    removed: str,
    width: float,
    **flags: bool,
) -> None:
    """Train the two-column AlexNet on the augmented stream, with the paper's hyper-parameters as defaults.

    Two processes (ranks) hold one column each, on two GPUs with NCCL or on the CPU with gloo; both are started
    here. After every epoch the validation error is printed and a checkpoint written; --resume continues
    from it exactly. The same command and seed give the same numbers. Python: trainer.loop.train.

    \b
    Examples:
      cli.py train --data shards/
      cli.py train --data shards/ --epochs 5 --run runs/short
      cli.py train --data shards/ --run runs/short --epochs 10 --resume
      cli.py train --data s3://bucket/shards --order grouped --cache /scratch --cache-size 100G
      cli.py train --data shards/ --recipe original
      torchrun --standalone --nproc-per-node 8 -- cli.py train --data shards/ --batch-size 512 --lr 0.04
    """
    from trainer import launch, loop, start
    from trainer.recipe import chosen

    epochs = epochs or (93 if recipe == "original" else 90)
    training = chosen(
        recipe,
        epochs=epochs,
        learning_rate=lr,
        patience=patience,
        drop_after=drop_after,
        removed=removed,
        width=width,
        **_changes(flags),
    )
    device_type = launch.choose_device_type(devices, device, training.columns)
    if device_type == "cpu" and device == "auto" and launch.num_gpus():
        click.echo(
            f"note: {launch.num_gpus()} GPU here, {devices} wanted, so the CPU is used; try --devices 1", err=True
        )
    stream = stream_of(
        data,
        val,
        batch_size=batch_size,
        seed=seed,
        augmentation=_augmentation(augment or recipe, crops=not flags["no_crops"], lighting=not flags["no_lighting"]),
        order=order,
        decoder=decoder,
        cache=cache,
        cache_bytes=cache_size,
        num_threads=threads or max(1, launch.cores() // launch.num_local_processes(devices)),
        on_bad_sample=on_bad_sample,
    )
    options = start.RunOptions(
        folder=run_folder,
        epochs=epochs,
        recipe=training,
        resume=resume,
        init_from=init_from,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        checkpoint_every=checkpoint_every,
        keep=keep,
        log_every=log_every,
        timeout_s=timeout,
        tensorboard=tensorboard,
        quiet=quiet,
    )
    num_parts = launch.num_replicas(devices) * devices
    config = effective_config(click.get_current_context(), leave_out=("resume",))
    is_main = launch.is_main_process()
    try:
        with start.prepare(options, stream.facts(), num_parts, write=is_main, config=config) as claim:
            launch.run(loop.train, (stream, options), devices, device_type, timeout_s=timeout, claim=claim)
    except KeyboardInterrupt as error:
        error.args = ("continue from its last checkpoint with --resume",)
        raise


def _augmentation(name: str, *, crops: bool, lighting: bool) -> str:
    """The augmentation's name without what is not wanted."""
    if name == "none" or not (crops or lighting):
        return "none"
    return name + ("" if crops else "-no-crops") + ("" if lighting else "-no-lighting")
