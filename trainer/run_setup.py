"""Setup of a run: its options, the check and lock of its folder, and its initial parameters."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from alexstream.core.errors import OutputError
from alexstream.core.storage import publish_file, target_name
from alexstream.pipeline.batch import DataFacts
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import Tensors, describe_write_error
from alexstream.trainer.distributed.rendezvous import RANK_TIMEOUT_S
from alexstream.trainer.distributed.run_lock import RunLock
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.metrics import (
    CONFIG_FILE,
    CONFIG_START,
    METRICS_FILE,
    RUN_FILE,
    RUN_SCHEMA,
    TENSORBOARD_FOLDER,
    load_run_facts,
    read_run_file,
)
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.recipe import Recipe
from alexstream.trainer.train_step import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a training run.

    Args:
        folder: The run folder, which holds checkpoints, metrics and the options of the run.
        epochs: Passes over the training split.
        recipe: The network and its hyper-parameters.
        resume: Continue from the newest checkpoint in the folder.
        init_from: A checkpoint whose parameters are taken, those whose shapes differ (another number of classes)
            excepted.
        precision: Of activations and gradients: ``fp32``, ``tf32`` or ``bf16``; parameters and their velocity are
            float32 in any case.
        compile: Let ``torch.compile`` fuse what it can; takes a C++ compiler on the machine.
        checkpoint_every: Steps between checkpoints; 0: at the ends of epochs only.
        keep: The number of newest checkpoints kept; older ones are deleted.
        log_every: Steps between lines of progress; 0: one after 5 seconds, then every 20.
        timeout_s: The longest wait of a rank for another one, in seconds.
        tensorboard: Write events for TensorBoard as well.
        quiet: Print no lines of the log; ``metrics.jsonl`` has them all the same.
    """

    folder: Path
    epochs: int = 90
    recipe: Recipe = Recipe()
    resume: bool = False
    init_from: Path | None = None
    precision: Precision = "fp32"
    compile: bool = False
    checkpoint_every: int = 0
    keep: int = checkpoints.DEFAULT_KEEP
    log_every: int = 0
    timeout_s: float = RANK_TIMEOUT_S
    tensorboard: bool = False
    quiet: bool = False


def prepare_run(
    options: RunOptions, facts: DataFacts, num_parts: int = 1, *, write: bool = True, config: str = ""
) -> RunLock:
    """Check the run folder before any rank starts; make and lock it, write ``run.json``, and return the lock.

    ``num_parts``: processes that share a batch. ``write``: whether this process makes, locks and writes the folder;
    others only check it, and return no lock. ``config``: text for ``config.toml``. Raises TrainError if the batch
    cannot be divided evenly, if the folder is in use, if it holds a run and ``resume`` is off, or no run and it is on,
    or has finished more epochs than are asked for, or if files of somebody else have the names of a run's;
    CheckpointError if the checkpoint belongs to other data or another recipe, or if none can be read.
    """
    folder = options.folder
    if facts.batch_size % num_parts:
        raise TrainError(
            f"`batch_size`: received {facts.batch_size}, expected a multiple of {num_parts}, the number of processes"
        )
    claim = RunLock.acquire(folder) if write and folder.is_dir() else RunLock()
    try:
        _check_no_links(
            folder / name for name in (RUN_FILE, CONFIG_FILE, METRICS_FILE, checkpoints.LATEST_FILE, TENSORBOARD_FOLDER)
        )
        _check_run_folder(options, facts, say=write)
        if write and not folder.is_dir():
            claim = _make_run_folder(folder)
        if write:
            _write_run_files(options, facts, num_parts, config)
    except BaseException:
        claim.close()
        raise
    return claim


def _make_run_folder(folder: Path) -> RunLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"cannot write to `folder` {folder}: {error.strerror}") from error
    return RunLock.acquire(folder)


def _write_run_files(options: RunOptions, facts: DataFacts, num_parts: int, config: str) -> None:
    data = asdict(replace(facts, preprocessing=None))  # which is in the checkpoints
    del data["preprocessing"]
    record = {"schema": RUN_SCHEMA, "data": data, "recipe": asdict(options.recipe), "epochs": options.epochs}
    record |= {"precision": options.precision, "processes": num_parts}
    try:
        clear_leftovers(options.folder)
        publish_file(options.folder / RUN_FILE, (json.dumps(record, indent=2) + "\n").encode())
        if config:
            publish_file(options.folder / CONFIG_FILE, config.encode("utf-8", "surrogateescape"))
    except (OSError, OutputError) as error:
        raise TrainError(f"cannot write to `folder` {options.folder}: {describe_write_error(error)}") from error


def clear_leftovers(folder: Path) -> None:
    """Delete partly written files of a killed run; files with other names than a run's (``notes.tmp``) stay."""
    for path in folder.glob("*.tmp"):
        if _is_run_file(target_name(path.name) or ""):
            path.unlink(missing_ok=True)


def _is_run_file(name: str) -> bool:
    return (
        name in (RUN_FILE, CONFIG_FILE, METRICS_FILE, checkpoints.LATEST_FILE)
        or checkpoints.FILE_NAME.fullmatch(name) is not None
    )


def _check_no_links(paths: Iterable[Path]) -> None:
    """Raise TrainError if one of the files to be written is a symbolic link: links are not followed or replaced."""
    for path in paths:
        if path.is_symlink():
            raise TrainError(
                f"{path} is a link to {os.path.realpath(path)}, which is not followed; remove the link, or replace it "
                "by a copy of its target"
            )


def _check_run_folder(options: RunOptions, facts: DataFacts, *, say: bool) -> None:
    if options.resume:
        load_run_facts(options.folder)  # raises if a newer version made the run
        restored = checkpoints.restore_checkpoint(options.folder)
        if restored is None:
            raise TrainError(f"`resume`: {options.folder} holds no checkpoint; start without `resume`")
        restored.state.require_match(facts, options.recipe, restored.path)
        restored.state.require_network(restored.path)
        if (done := len(restored.state.errors)) > options.epochs:
            raise TrainError(
                f"`epochs`: received {options.epochs}, but the run in {options.folder} has finished {done}; give more"
            )
        later = (path for path in options.folder.glob(checkpoints.FILE_GLOB) if path.name > restored.path.name)
        _check_no_links(later)
        if say and restored.skipped:
            print(f"note: {'; '.join(restored.skipped)}; continuing from {restored.path.name}", file=sys.stderr)  # noqa: T201
        return
    newest = max(options.folder.glob(checkpoints.FILE_GLOB), default=None)
    if newest is not None:
        raise TrainError(
            f"`folder` {options.folder} holds a run ({newest.name}); continue it with `resume`, or give another"
        )
    _check_files_are_a_runs(options.folder)
    if options.init_from is not None:
        load_start_parameters(options, facts)


def _check_files_are_a_runs(folder: Path) -> None:
    """Raise TrainError if a file that a new run replaces is not one of a run that ended before its first checkpoint."""
    found = [
        name for name in (RUN_FILE, CONFIG_FILE, METRICS_FILE, checkpoints.LATEST_FILE) if (folder / name).exists()
    ]
    others = [CONFIG_FILE] if CONFIG_FILE in found and not _has_written_config(folder / CONFIG_FILE) else []
    if found and not _holds_run_facts(folder):
        others = found
    if others:
        raise TrainError(
            f"`folder` {folder} holds {', '.join(others)} of something else than a run of train, which would be "
            "replaced; give a new folder"
        )


def _holds_run_facts(folder: Path) -> bool:
    data = load_run_facts(folder).get("data")
    return isinstance(data, dict) and {"train_digest", "num_train"} <= data.keys()


def _has_written_config(path: Path) -> bool:
    try:
        return read_run_file(path).startswith(CONFIG_START.encode())
    except OSError:
        return False


def load_start_parameters(options: RunOptions, facts: DataFacts) -> Tensors:
    """Return canonical float32 parameters for a new run: random, or from the checkpoint ``init_from``.

    Raises CheckpointError if that is of another network.
    """
    fresh = make_initial_parameters(len(facts.classes), options.recipe, facts.seed)
    if options.init_from is None:
        return fresh
    taken = checkpoints.load_checkpoint(options.init_from).parameters
    for name in dict.fromkeys([*fresh, *taken]):
        have, shape = (tuple(of[name].shape) if name in of else None for of in (taken, fresh))
        if have != shape and not name.startswith("fc8."):
            raise CheckpointError(
                f"`init_from` {options.init_from}: {name} is {have}, expected {shape}; give the options of its network"
            )
    return {name: taken[name] if taken[name].shape == start.shape else start for name, start in fresh.items()}
