"""``train``: train the network on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from alexstream.commands.group import Command, command, format_effective_config, load_config
from alexstream.commands.options import (
    DEFAULT_RUN,
    FOLDER_PARAM,
    LOCATION_PARAM,
    cache_option,
    cache_size_option,
    compile_option,
    decoder_option,
    devices_option,
    order_option,
    precision_option,
    quiet_option,
    recipe_option,
    takes_data,
)
from alexstream.commands.streams import make_stream
from alexstream.core.parameters import to_display


class _TrainCommand(Command):
    """``train``, which takes the options of a run that it resumes from that run's folder."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; what is not typed is as it was in the run that ``--resume`` continues."""
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        if typed.get("resume") and not typed.get("config"):
            from alexstream.trainer.metrics import CONFIG_FILE

            config = Path(typed.get("run_folder") or DEFAULT_RUN) / CONFIG_FILE
            if config.is_file():
                load_config(ctx, config, leave_out=("run",))
        return super().parse_args(ctx, args)


# Flag → the recipe fields that it changes, and its help text.
_ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "--tanh": ({"activation": "tanh"}, "Ablation, section 3.1: tanh instead of ReLU."),
    "--no-lrn": ({"lrn": False}, "Ablation, section 3.3: no local response normalization."),
    "--no-overlap": ({"pool_size": 2}, "Ablation, section 3.4: 2x2 pooling windows, which do not overlap, not 3x3."),
    "--no-dropout": ({"dropout": 0.0}, "Ablation, section 4.2: no dropout."),
    "--no-crops": ({}, "Ablation, section 4.1: no random crops and flips."),
    "--no-lighting": ({}, "Ablation, section 4.1: no color noise (PCA lighting)."),
    "--half": ({"columns": 1}, "Ablation, section 3.2: the one-column network, for one GPU."),
    "--no-talk": ({"columns_talk": False}, "Ablation: columns that exchange no activations before fc8."),
    "--sixth-conv": ({"sixth_conv": True}, "Section 6: a sixth convolutional layer after the last pooling layer."),
}


def ablation_options(command: Any) -> Any:
    """Add the options for the paper's experiments to a command, one flag each."""
    command = click.option(
        "--remove",
        "removed",
        default="",
        metavar="LAYER",
        help="Ablation, section 7: leave out a layer (conv2, conv3, conv4 or conv5).",
    )(command)
    for flag, (_, text) in reversed(_ABLATIONS.items()):
        command = click.option(flag, is_flag=True, help=text)(command)
    return command


def _list_recipe_changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe fields that the flags among the options ``given`` change, with their values."""
    flags = [flag for flag in _ABLATIONS if given[flag.removeprefix("--").replace("-", "_")]]
    return {field: value for flag in flags for field, value in _ABLATIONS[flag][0].items()}


_GROUPS = {
    "Data": ("data", "val", "augment", "order", "on-bad-sample", "threads", "decoder", "cache", "cache-size"),
    "Run folder": ("run", "resume", "init-from", "checkpoint-every", "keep"),
    "Training": ("recipe", "epochs", "batch-size", "lr", "patience", "drop-after", "seed"),
    "Devices": ("device", "devices", "precision", "compile", "timeout"),
    "The paper's experiments, and smaller networks": (*(flag[2:] for flag in _ABLATIONS), "remove", "width"),
    "Output": ("log-every", "tensorboard", "quiet"),
}


@command(cls=_TrainCommand, writes_files=True, groups=_GROUPS)
@takes_data(
    "data set with train/ and val/, or a training split; a folder or s3://bucket/folder. [required, except with "
    "--resume]",
    required=False,  # a resumed run knows it
)
@click.option("--val", default=None, type=LOCATION_PARAM, help="Validation split. [default: val/ in --data]")
@click.option(
    "--run",
    "run_folder",
    default=DEFAULT_RUN,
    show_default=True,
    type=FOLDER_PARAM,
    help="Run folder for checkpoints and metrics.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --run from its newest checkpoint, with the options that it had; what is typed "
    "takes precedence.",
)
@devices_option
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="What to train on. auto: GPUs if there are as many as --devices, else the CPU.",
)
@recipe_option
@click.option(
    "--epochs",
    default=None,
    type=click.IntRange(1),
    help="Number of epochs. [default: 90, or 93 with --recipe original]",
)
@click.option(
    "--batch-size", default=128, show_default=True, type=click.IntRange(2), help="Images per step, over all devices."
)
@click.option(
    "--lr",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Initial learning rate.",
)
@click.option(
    "--patience",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Divide the learning rate by 10 when the validation error has not improved for this many epochs.",
)
@click.option(
    "--drop-after",
    default=None,
    metavar="EPOCHS",
    help="Divide the learning rate by 10 after each of these epochs, for example 25,50,75, instead of by --patience.",
)
@precision_option
@compile_option
@click.option(
    "--init-from",
    default=None,
    type=FOLDER_PARAM,
    help="Fine-tune: start from the weights of this checkpoint or run folder. The last layer (fc8) starts at random if "
    "the number of classes is another.",
)
@ablation_options
@click.option(
    "--width",
    default=1.0,
    show_default=True,
    metavar="FACTOR",
    help="Make every layer narrower, by 0.5, 0.25 or 0.125: a smaller, faster network for trying things out.",
)
@click.option(
    "--augment",
    default=None,
    type=click.Choice(["paper", "original", "inception", "none"]),
    help="paper: random crop, flip and lighting for each image. original: as the program of 2012, one crop for 32 "
    "images. inception: random resized crops, for data sets made with --encode keep. none: the center crop. "
    "[default: the augmentation of --recipe]",
)
@order_option
@click.option("--seed", default=1, show_default=True, help="Seed for weights, order, augmentation and dropout.")
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(0),
    show_default=True,
    help="Threads that decode images, in each process; 0: all cores, divided among the processes.",
)
@click.option(
    "--on-bad-sample",
    default="fail",
    show_default=True,
    type=click.Choice(["fail", "skip"]),
    help="What to do with a stored image that no longer decodes. fail: end the run. skip: say so, and take another.",
)
@decoder_option
@cache_option
@cache_size_option
@click.option(
    "--log-every",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="Print a progress line every N steps. [default: after 5 seconds, then every 20]",
)
@click.option(
    "--checkpoint-every",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Save a checkpoint every N steps as well, not only after each epoch; 0: no.",
)
@click.option(
    "--keep",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Keep the N newest checkpoints, and delete older ones.",
)
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End the run when one process has waited so long for another.",
)
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard event files to the run folder.")
@quiet_option
def train(devices: int, device: str, **given: Any) -> None:
    """Train the two-column AlexNet on a data set, by default with the paper's hyper-parameters.

    Starts two processes (ranks), each of which holds one column: on two GPUs with NCCL, or on the CPU with gloo.
    After every epoch it prints the validation error and saves a checkpoint, from which --resume continues exactly.
    The same command and seed give the same numbers. Python: alexstream.train.

    \b
    Examples:
      cli.py train --data shards/
      cli.py train --data shards/ --epochs 5 --run runs/short
      cli.py train --resume --run runs/short --epochs 10
      cli.py train --data s3://bucket/shards --order grouped --cache /scratch --cache-size 100G
      cli.py train --data shards/ --recipe original
      torchrun --standalone --nproc-per-node 8 -- cli.py train --data shards/ --batch-size 512 --lr 0.04
    """
    from alexstream.trainer import run
    from alexstream.trainer.distributed import launch

    _require_data(**given)
    if note := launch.describe_idle_gpus(devices, device):
        click.echo(to_display(note), err=True)
    config = format_effective_config(click.get_current_context(), leave_out=("resume",))
    options = _make_run_options(**given)
    run.train(_make_training_stream(devices, **given), options, devices=devices, device=device, config=config)


def _require_data(*, data: Path | None, resume: bool, run_folder: Path, **_: Any) -> None:
    """Raise click.UsageError if nothing names the data set."""
    context = click.get_current_context()
    if data is None and resume:
        why = f"{run_folder} has no config.toml that names its data; give --data, and --run if the run is elsewhere"
        raise click.UsageError(f"--resume: {why}", context)
    if data is None:
        raise click.MissingParameter(ctx=context, param_hint="'DATA' or '--data'", param_type="argument")


def _make_run_options(
    *,
    run_folder: Path,
    recipe: str,
    epochs: int | None,
    lr: float,
    patience: int,
    drop_after: str | None,
    removed: str,
    width: float,
    **given: Any,
) -> Any:
    """Return the RunOptions that the options of ``train`` ask for, with the recipe and its ablations."""
    from alexstream.trainer.recipe import make_recipe
    from alexstream.trainer.run_setup import RunOptions

    epochs = epochs or (93 if recipe == "original" else 90)
    network = make_recipe(
        recipe,
        epochs=epochs,
        learning_rate=lr,
        patience=patience,
        drop_after=drop_after,
        removed=removed,
        width=width,
        **_list_recipe_changes(given),
    )
    return RunOptions(
        folder=run_folder,
        epochs=epochs,
        recipe=network,
        resume=given["resume"],
        init_from=given["init_from"],
        precision=given["precision"],
        compile=given["compiled"],
        checkpoint_every=given["checkpoint_every"],
        keep=given["keep"],
        log_every=given["log_every"],
        timeout_s=given["timeout"],
        tensorboard=given["tensorboard"],
        quiet=given["quiet"],
    )


def _make_training_stream(
    devices: int, *, data: Path, val: Path | None, recipe: str, augment: str | None, threads: int, **given: Any
) -> Any:
    """Return the stream that the options of ``train`` ask for, for each of the processes of ``devices``."""
    from alexstream.core.limits import count_cores
    from alexstream.trainer.distributed.launch import count_local_processes

    augmentation = _augmentation_name(augment or recipe, crops=not given["no_crops"], lighting=not given["no_lighting"])
    fields = {name: given[name] for name in ("batch_size", "seed", "order", "decoder", "cache", "on_bad_sample")}
    return make_stream(
        data,
        val,
        augmentation=augmentation,
        cache_bytes=given["cache_size"],
        # ``devices`` may still be 0 here: what is wrong with it is said where the run starts.
        num_threads=threads or max(1, count_cores() // max(1, count_local_processes(devices))),
        **fields,
    )


def _augmentation_name(name: str, *, crops: bool, lighting: bool) -> str:
    """Return the name of the augmentation ``name`` without crops (and flips) or lighting, as asked."""
    if name == "none" or not (crops or lighting):
        return "none"
    return name + ("" if crops else "-no-crops") + ("" if lighting else "-no-lighting")
