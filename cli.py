"""The command line: parse, make one call, show the result. ``python cli.py`` and ``alexstream`` are the same."""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from sharding.errors import AlexstreamError, BadImageError, DatasetError
from sharding.storage import is_store_error, location

FOLDER = click.Path(path_type=Path, file_okay=True)
FILE = click.Path(path_type=Path)


class _Place(click.ParamType):
    """A folder of this machine, or one of an object store: ``s3://bucket/folder``."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return location(value) if isinstance(value, str) else value


class _Bytes(click.ParamType):
    """A number of bytes: ``64G``, ``500M``, ``2T`` (powers of 1024), or plain."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no size; give for example 64G", param, ctx)
        return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


class _FitOn(click.ParamType):
    """A share between 0 and 1, or a split of a data set."""

    name = "share|place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            share = float(value)
        except (TypeError, ValueError):
            return PLACE.convert(value, param, ctx)
        if not 0.0 < share < 1.0:
            self.fail(f"{value} is no share; give one between 0 and 1, for example 0.5, or a split", param, ctx)
        return share


class _Consumer(click.ParamType):
    """Images per second; a share of the stream's peak rate; or ``sweep``, several shares: (images/s, shares)."""

    name = "rate|share|sweep"
    sweep = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "sweep":
            return 0.0, self.sweep
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(value).strip())
        if found is None or not float(found[1]):
            self.fail(
                f"{value!r} is no rate; give images per second (5000), a share of the peak (90%), or sweep", param
            )
        return (0.0, (float(found[1]) / 100,)) if found[2] else (float(found[1]), ())


PLACE = _Place()
workers_option = click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    help="Worker processes; 0 means one per core.",
    show_default=True,
)
cache_option = click.option(
    "--cache",
    type=FOLDER,
    help="Where shards of an object store are kept on this machine. [default: ~/.cache/alexstream]",
)
cache_size_option = click.option(
    "--cache-size", default="64G", show_default=True, type=_Bytes(), help="What --cache may hold at most."
)
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


checkpoint_option = click.option(
    "--checkpoint",
    default=Path("runs/alexnet"),
    show_default=True,
    type=FOLDER,
    help="A checkpoint, or a run folder's newest.",
)
checkpoints_option = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=(Path("runs/alexnet"),),
    show_default=True,
    type=FOLDER,
    help="A checkpoint, or a run folder's newest; repeat it to average several.",
)
views_option = click.option(
    "--views",
    default="1",
    show_default=True,
    type=click.Choice(["1", "10"]),
    help="The centre, or the mean of ten views: corners and centre, and the same mirrored.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto: the GPU if there is one.",
)
encode_option = click.option(
    "--encode",
    "encoding",
    default="jpeg",
    show_default=True,
    type=click.Choice(["jpeg", "raw", "keep"]),
    help="Store squares as JPEG or as raw pixels, or keep the original bytes.",
)
recipe_option = click.option(
    "--recipe",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "original"]),
    help="paper: as published. original: as the program of 2012 did (docs/training.md lists the differences).",
)
precision_option = click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Of activations and gradients; parameters stay float32. tf32: GPUs only.",
)
compile_option = click.option(
    "--compile", "compiled", is_flag=True, help="Let torch.compile fuse what it can; starts a minute later."
)
devices_option = click.option(
    "--devices", default=2, show_default=True, help="2: one column per process. 1: both columns in one."
)
order_option = click.option(
    "--order",
    default="global",
    show_default=True,
    type=click.Choice(["global", "grouped"]),
    help="Shuffle all samples, or eight shards at a time: for disks and buckets, which want long reads.",
)
decoder_option = click.option(
    "--decoder",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "dali"]),
    help="auto: the compiled operator where it can be used; dali: never. The images are the same.",
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress on stderr.")


class _OneLineErrors(click.Group):
    """Expected errors become one line on stderr: exit code 1; 2: wrong command line; 130: Ctrl-C or SIGTERM.

    Programming errors keep their traceback.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop ends as cleanly as Ctrl-C
        try:
            super().main(*args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "cli.py"
            _fail(f"{error.format_message()} (see: {command} --help)", 2)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except AlexstreamError as error:
            _fail(str(error), 1)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; what was finished is kept", 130)
        except Exception as error:
            if is_store_error(error):
                _fail(f"{str(error).splitlines()[0]} (from the object store; check its address and keys)", 1)
            if isinstance(error, OSError):
                _fail(str(error), 1)
            raise


def _fail(message: str, exit_code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(exit_code)


def _resolve(data: Path, split: str, *, any_split: bool = False) -> Path:
    """The folder of a split in ``data``; ``any_split``: a data set named outright is taken whatever its split."""
    from sharding.layout import find_split, is_dataset, split_folders_of

    found = data if any_split and is_dataset(data) else find_split(data, split)
    if found is None:
        split_folders_of(data)  # says what is wrong if there is no data set at all
        raise DatasetError(f"{data} holds no split {split!r}; make it with: cli.py shard --split {split}")
    return found


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="alexstream")
def main() -> None:
    """Images in, shards and exact statistics out, AlexNet trained on the stream.

    \b
    cli.py shard --src imagenet/ --out shards/
    cli.py stats shards/
    cli.py train --data shards/
    """


@main.command()
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


@main.command()
@click.argument("data", type=PLACE)
@click.option("--fast", is_flag=True, help="Sizes and hashes only; no sample is decoded.")
@workers_option
@quiet_option
def verify(data: Path, fast: bool, workers: int, quiet: bool) -> None:
    """Prove a data set again: hashes, indexes against the tars, every sample, labels, keys, statistics.

    Every split in DATA is verified. Exit code 1 if anything is not as it should be; each finding names the file.
    Python: sharding.verify.verify.

    \b
    Examples:
      cli.py verify shards/
      cli.py verify shards/train --fast
    """
    from sharding.layout import split_folders_of
    from sharding.verify import verify as prove

    verdicts = [prove(folder, fast=fast, num_workers=workers, quiet=quiet) for folder in split_folders_of(data)]
    for verdict in verdicts:
        click.echo(verdict.lines())
    if any(verdict.findings for verdict in verdicts):
        raise DatasetError(f"{data} is not intact; restore the files named above, or shard the source again")


@main.command()
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


@main.command()
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

    check = check_stats(_resolve(data, split or "train", any_split=split is None), num_workers=workers, quiet=quiet)
    click.echo(json.dumps(stats_json(check), indent=2) if as_json else stats_table(check))
    if plot is not None:
        save_stats_picture(check.stored, check.mean_image_HWC, plot)
        click.echo(f"picture: {plot}", err=True)
    if not check.equal:
        raise DatasetError("the stored statistics are not those of the shards; shard the source again")


@main.command()
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
    tensorboard: bool,
    quiet: bool,
    removed: str,
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
    from trainer import launch, loop
    from trainer.recipe import chosen

    epochs = epochs or (93 if recipe == "original" else 90)
    training = chosen(
        recipe,
        epochs=epochs,
        learning_rate=lr,
        patience=patience,
        drop_after=drop_after,
        removed=removed,
        **_changes(flags),
    )
    device_type = launch.choose_device_type(devices, device, training.columns)
    if device_type == "cpu" and device == "auto" and launch.num_gpus():
        click.echo(
            f"note: {launch.num_gpus()} GPU here, {devices} wanted, so the CPU is used; try --devices 1", err=True
        )
    stream = _stream(
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
    options = loop.RunOptions(
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
        tensorboard=tensorboard,
        quiet=quiet,
    )
    num_parts = launch.num_replicas(devices) * devices
    loop.prepare(options, stream.facts(), num_parts, write=launch.is_main_process())
    launch.run(loop.train, (stream, options), devices, device_type)


def _augmentation(name: str, *, crops: bool, lighting: bool) -> str:
    """The augmentation's name without what is not wanted."""
    if name == "none" or not (crops or lighting):
        return "none"
    return name + ("" if crops else "-no-crops") + ("" if lighting else "-no-lighting")


@main.command()
@click.option("--data", required=True, type=PLACE, help="Data set with train/ (for the mean image) and val/.")
@click.option("--val", default=None, type=PLACE, help="Validation split, if it is not in --data.")
@checkpoints_option
@views_option
@click.option(
    "--fit-weights",
    "fit_on",
    default=None,
    type=_FitOn(),
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

    _resolve(data, "train")
    ensemble = Ensemble.load(checkpoints)
    options = {"batch_size": batch_size, "cache": cache, "cache_bytes": cache_size}
    stream = _evaluation_stream(data, val, ensemble, **options)
    predictions = _predictions(predictions_file, stream) if predictions_file else None
    where = FitOn(share=fit_on) if isinstance(fit_on, float) else None
    if isinstance(fit_on, Path):
        where = FitOn(data=_evaluation_stream(data, fit_on, ensemble, **options))
    found = assess(
        stream, ensemble, _device(device), views=int(views), fit_on=where, predictions=predictions, quiet=quiet
    )
    if predictions is not None:
        predictions.write()
    if as_json:
        return click.echo(json.dumps(found.json(stream.facts(), per_class=per_class)))
    click.echo(found.lines(_class_names(stream) if per_class else ()))


@main.command()
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

    manifest = load_manifest(_resolve(data, "train"))
    ensemble, where = Ensemble.load(checkpoints), _device(device)
    stream = _evaluation_stream(data, None, ensemble)
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


@main.command()
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


@main.command()
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
    _resolve(data, "train")
    ensemble, where = Ensemble.load([checkpoint]), _device(device)
    stream = _evaluation_stream(data, val, ensemble, batch_size=batch_size, cache=cache, cache_bytes=cache_size)
    ensemble.require(stream.facts())
    splits = _splits(stream)
    asked = choose(splits, keys, queries, seed)
    found = find(ensemble.models(where)[0], splits[-1], asked, _class_names(stream), count, where, quiet=quiet)
    click.echo("\n".join(json.dumps(one.json()) if as_json else one.lines() for one in found))
    save_neighbours([one.pictures() for one in found], f"{checkpoint}, step {ensemble.states[0].step:,}", out)
    click.echo(f"picture: {out}", err=True)


@main.command()
@click.option(
    "--data",
    default=Path(),
    show_default="this folder",
    type=FOLDER,
    help="A folder on the disk that shards are on; its speed is measured with a file that is removed again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(data: Path, as_json: bool) -> None:
    """What this machine has, what will be used of it, and what to install.

    Exit code 1 if something will not work (marked ✗). Python: pipeline.doctor.examine.

    \b
    Examples:
      cli.py doctor
      cli.py doctor --data /scratch --json
    """
    from dataclasses import asdict

    from pipeline.doctor import examine

    checks = []
    for check in examine(data):
        checks.append(check)
        if not as_json:
            click.echo(check.line())
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}))
    bad = [check.name for check in checks if check.state == "bad"]
    if bad:
        _fail(f"will not work: {', '.join(bad)}; the advice is above", 1)


@main.group()
def bench() -> None:
    """Measure on this machine: what data costs a training, and how fast each part is. docs/measuring.md explains.

    Every number is a median over rounds, with the smallest and the largest. Measure on a quiet machine.

    \b
    Examples:
      cli.py bench overlap --data shards/
      cli.py bench shard --src imagenet/
      cli.py bench stream --data shards/
      cli.py bench step --devices 1
    """


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every round's values.")
rounds_option = click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(1), help="How often each is measured."
)


@bench.command("shard")
@click.option("--src", required=True, type=PLACE, help="The images, in any form that shard reads.")
@click.option(
    "--out",
    default=None,
    type=FOLDER,
    help="Where temporary shards are written. [default: the system's folder for them]",
)
@encode_option
@click.option(
    "--limit",
    default=10_000,
    show_default=True,
    type=click.IntRange(0),
    help="Convert so many images, always the same ones, drawn from all classes; 0: all.",
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Conversions.")
@workers_option
@json_option
@quiet_option
def bench_shard(
    src: Path, out: Path | None, encoding: str, limit: int, rounds: int, workers: int, as_json: bool, quiet: bool
) -> None:
    """Measure the conversion: images/s, MB/s of sources and of shards, memory of all processes.

    The start of the workers counts, so give a --limit that lasts a while; listing does not. Nothing that is written
    stays. Of a source with train/ and val/, train/ is converted. Python: sharding.bench.measure.

    \b
    Examples:
      cli.py bench shard --src imagenet/
      cli.py bench shard --src photos/ --out /scratch --limit 2000 --workers 8 --json
    """
    from sharding.bench import measure
    from sharding.layout import EncodeRecipe
    from sharding.pack import ShardRequest
    from sharding.workers import without_pandas

    without_pandas()
    folder = out or Path(tempfile.gettempdir())
    request = ShardRequest(source=src, folder=folder, encode=EncodeRecipe(encoding=encoding), num_workers=workers)
    speed = measure(request, limit=limit, rounds=rounds, quiet=quiet)
    _show(speed.table(), speed.json(), as_json)


@bench.command("stream")
@click.option("--data", required=True, type=PLACE, help="Data set, or one of its splits.")
@click.option(
    "--split", default="train", show_default=True, type=click.Choice(["train", "val", "test"]), help="Split of --data."
)
@click.option(
    "--augmentation",
    "augmentations",
    multiple=True,
    default=("paper", "none"),
    show_default=True,
    help="What to measure, in turn: paper, original, inception (and each with -no-lighting), none; repeat it.",
)
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option(
    "--threads", default=0, type=click.IntRange(0), show_default=True, help="Decoding threads; 0: one a core."
)
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="Batches of a round.")
@rounds_option
@device_option
@cache_option
@cache_size_option
@json_option
@quiet_option
def bench_stream(
    data: Path,
    split: str,
    augmentations: tuple[str, ...],
    batch_size: int,
    threads: int,
    steps: int,
    rounds: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the training stream by itself, one augmentation beside another.

    Images/s, and their ratio to the last augmentation's in the same round, with its 95 % confidence interval; MB/s
    of the float32 images that are handed over; memory. Python: trainer.bench.stream.measure.

    \b
    Examples:
      cli.py bench stream --data shards/
      cli.py bench stream --data shards/ --augmentation paper --augmentation paper-no-lighting --threads 8
    """
    from pipeline.loader import ShardedData
    from trainer.bench.stream import measure
    from trainer.launch import cores

    stream = ShardedData(
        train=_resolve(data, split, any_split=True),
        batch_size=batch_size,
        augmentation=augmentations[0],
        num_threads=threads or cores(),
        cache=cache,
        cache_bytes=cache_size,
    )
    speed = measure(stream, augmentations, _device(device), steps=steps, rounds=rounds, quiet=quiet)
    _show(speed.table(), speed.json(), as_json)


@bench.command("step")
@recipe_option
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(2), help="Outputs of the network.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@precision_option
@devices_option
@device_option
@compile_option
@click.option("--steps", default=5, show_default=True, type=click.IntRange(1), help="Steps of a round.")
@rounds_option
@json_option
@quiet_option
def bench_step(
    recipe: str,
    classes: int,
    batch_size: int,
    precision: str,
    devices: int,
    device: str,
    compiled: bool,
    steps: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a training step without data to wait for: forward, loss, backward and update on one random batch.

    Milliseconds a step, images/s, memory of each rank. Python: trainer.bench.step.measure.

    \b
    Examples:
      cli.py bench step
      cli.py bench step --devices 1 --precision bf16 --batch-size 64 --json
    """
    from trainer.bench.step import StepOptions, measure
    from trainer.recipe import RECIPES

    options = StepOptions(
        recipe=RECIPES[recipe],
        classes=classes,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        steps=steps,
        rounds=rounds,
        quiet=quiet,
    )
    speed = measure(options, devices, device)
    _show(speed.table(), speed.json(), as_json)


@bench.command("overlap")
@click.option("--data", required=True, type=PLACE, help="Data set: a folder (or s3://bucket/folder), or a split.")
@click.option(
    "--consumer",
    default=None,
    type=_Consumer(),
    help="In place of the network, what takes so many images per second without a CPU, as an accelerator would: "
    "5000; 90% of the stream's peak; or sweep, from 50% to 100%.",
)
@click.option("--devices", default=2, show_default=True, help="As for train; with --consumer, 1.")
@device_option
@recipe_option
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(2))
@precision_option
@compile_option
@click.option(
    "--augment",
    default=None,
    type=click.Choice(["paper", "original", "inception"]),
    help="What is compared with none.  [default: as --recipe]",
)
@order_option
@click.option(
    "--threads", default=0, type=click.IntRange(0), show_default=True, help="As for train; 0: cores / devices."
)
@decoder_option
@cache_option
@cache_size_option
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1), help="Counted steps of a block.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Blocks of each kind.")
@json_option
@quiet_option
def bench_overlap(
    data: Path,
    consumer: Any,
    devices: int,
    device: str,
    recipe: str,
    batch_size: int,
    precision: str,
    compiled: bool,
    augment: str | None,
    order: str,
    threads: int,
    decoder: str,
    cache: Path | None,
    cache_size: int,
    steps: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Is it my data or my GPU? What the stream costs a training, and what augmentation costs it.

    In turn, in one process a rank: steps on live batches, on one cached batch, and on live batches without
    augmentation. live ÷ cached is the cost of data, live ÷ without the cost of augmentation, each with a 95 %
    confidence interval; then what is waited for, and a verdict. Python: trainer.bench.overlap.

    \b
    Examples:
      cli.py bench overlap --data shards/
      cli.py bench overlap --data shards/ --devices 1 --precision bf16 --batch-size 256
      cli.py bench overlap --data shards/ --consumer 5000
      cli.py bench overlap --data shards/ --consumer sweep
    """
    from trainer import launch
    from trainer.bench.overlap import OverlapOptions, measure
    from trainer.recipe import RECIPES

    devices = 1 if consumer else devices
    images_per_s, shares = consumer or (0.0, ())
    device_type = launch.choose_device_type(devices, device)
    stream = _stream(
        data,
        None,
        batch_size=batch_size,
        augmentation=augment or recipe,
        order=order,
        decoder=decoder,
        cache=cache,
        cache_bytes=cache_size,
        num_threads=threads or max(1, launch.cores() // launch.num_local_processes(devices)),
    )
    stream.facts()
    options = OverlapOptions(
        steps=steps,
        rounds=rounds,
        images_per_s=images_per_s,
        shares=shares,
        recipe=RECIPES[recipe],
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
    )
    found = launch.results_of(measure, (stream, options, quiet), devices, device_type)[0]
    if launch.is_main_process():
        _show("\n".join(found.pop("lines")), found, as_json)


def _show(table: str, measured: dict[str, Any], as_json: bool) -> None:
    """What a ``bench`` command measured, with its options and the machine."""
    from dataclasses import asdict

    from sharding.machine import Machine

    context, machine = click.get_current_context(), Machine.here()
    if not as_json:
        return click.echo(f"{table}\n{machine.line()}")
    facts = {"command": f"bench {context.info_name}", "options": context.params, "machine": asdict(machine)}
    click.echo(json.dumps({**facts, "measured": measured}, default=str))


@main.command()
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

    stream = _stream(shards, None)
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


def _stream(data: Path, val: Path | None, **options: Any) -> Any:
    """The batches of the data set in ``data``, with its own or another validation split."""
    from pipeline.loader import ShardedData

    train = _resolve(data, "train")
    return ShardedData(
        train=train, val=_sibling(data, "val") if val is None else _resolve(val, "val", any_split=True), **options
    )


def _evaluation_stream(data: Path, val: Path | None, ensemble: Any, **options: Any) -> Any:
    """As ``_stream``, with the mean and the divisor that the networks were trained with."""
    from trainer.launch import cores

    return _stream(data, val, augmentation=ensemble.augmentation, num_threads=cores(), **options)


def _device(wanted: str) -> Any:
    import torch

    from trainer.launch import choose_device_type

    return torch.device(choose_device_type(1, wanted))


def _class_names(stream: Any) -> tuple[str, ...]:
    from sharding.layout import load_manifest
    from sharding.lookup import class_names

    return class_names(load_manifest(stream.train))


def _predictions(path: Path, stream: Any) -> Any:
    """Where ``evaluate`` puts what is said of each image of the validation split."""
    from sharding.lookup import Lookup
    from trainer.predictions import Predictions

    return Predictions(path, Lookup.of(stream.val).keys if stream.val else (), stream.facts().classes)


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


def _sibling(data: Path, split: str) -> Path | None:
    from sharding.layout import find_split

    return find_split(data, split)


if __name__ == "__main__":
    sys.exit(main(prog_name="cli.py"))
