"""Before a run starts: what it was asked for, whether its folder fits, and the parameters it begins with."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.batch import DataFacts
from sharding.errors import OutputError
from sharding.storage import publish
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Tensors, reason
from trainer.claim import Claim
from trainer.errors import CheckpointError, TrainError
from trainer.geometry import initial_parameters
from trainer.learner import Precision
from trainer.meeting import TIMEOUT_S
from trainer.metrics import CONFIG, METRICS, OPTIONS
from trainer.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How long a run lasts and what it leaves. ``checkpoint_every`` counts steps; 0 means at epoch ends only.

    ``init_from``: a checkpoint whose parameters are taken, those whose shapes differ (another number of classes)
    excepted. ``precision``: of activations and gradients; parameters and their velocity are float32 in any case.
    ``timeout_s``: how long a rank waits for another.
    """

    folder: Path
    epochs: int = 90
    recipe: Recipe = Recipe()
    resume: bool = False
    init_from: Path | None = None
    precision: Precision = "fp32"
    compile: bool = False
    checkpoint_every: int = 0
    keep: int = checkpoints.KEEP
    log_every: int = 10
    timeout_s: float = TIMEOUT_S
    tensorboard: bool = False
    quiet: bool = False


def prepare(
    options: RunOptions, facts: DataFacts, num_parts: int = 1, *, write: bool = True, config: str = ""
) -> Claim:
    """Check, before any rank starts, that the run folder fits; make it, hold it, and record the run in ``run.json``.

    ``num_parts``: processes that share a batch; ``write``: whether this process is the one to make and hold the folder;
    ``config``: text for ``config.toml``. Raises TrainError if they cannot share it evenly, if the folder is in use, if
    it holds a run and ``resume`` is off or none and it is on; CheckpointError if the checkpoint belongs to other data
    or another recipe, or none can be read.
    """
    folder = options.folder
    if facts.batch_size % num_parts:
        raise TrainError(
            f"--batch-size: received {facts.batch_size}, expected a multiple of {num_parts}, the number of processes"
        )
    claim = Claim.of(folder) if write and folder.is_dir() else Claim()
    try:
        _require_fitting(options, facts, say=write)
        if write and not folder.is_dir():
            claim = _made(folder)
        if write:
            _record(options, facts, num_parts, config)
    except BaseException:
        claim.close()
        raise
    return claim


def _made(folder: Path) -> Claim:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"cannot write to --run {folder}: {error.strerror}") from error
    return Claim.of(folder)


def _record(options: RunOptions, facts: DataFacts, num_parts: int, config: str) -> None:
    record = {"data": asdict(facts), "recipe": asdict(options.recipe), "epochs": options.epochs}
    record |= {"precision": options.precision, "processes": num_parts}
    try:
        clear_leftovers(options.folder)
        publish(options.folder / CONFIG, (json.dumps(record, indent=2) + "\n").encode())
        if config:
            publish(options.folder / OPTIONS, config.encode())
    except (OSError, OutputError) as error:
        raise TrainError(f"cannot write to --run {options.folder}: {reason(error)}") from error


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed run had half written."""
    for name in (CONFIG, OPTIONS, METRICS, checkpoints.LATEST, checkpoints.FILES):
        for path in folder.glob(f"{name}.*tmp"):
            path.unlink(missing_ok=True)


def _require_fitting(options: RunOptions, facts: DataFacts, *, say: bool) -> None:
    if options.resume:
        restored = checkpoints.restore(options.folder)
        if restored is None:
            raise TrainError(f"--resume: {options.folder} holds no checkpoint; start without --resume")
        restored.state.require(facts, options.recipe, restored.path)
        if say and restored.refused:
            print(f"note: {'; '.join(restored.refused)}; going on from {restored.path.name}", file=sys.stderr)  # noqa: T201
        return
    newest = max(options.folder.glob(checkpoints.FILES), default=None)
    if newest is not None:
        raise TrainError(
            f"--run {options.folder} holds a run ({newest.name}); continue it with --resume, or give another"
        )
    if options.init_from is not None:
        start_parameters(options, facts)


def start_parameters(options: RunOptions, facts: DataFacts) -> Tensors:
    """Canonical float32 parameters of a new run. Raises CheckpointError if ``init_from`` is of another network."""
    fresh = initial_parameters(len(facts.classes), options.recipe, facts.seed)
    if options.init_from is None:
        return fresh
    taken = checkpoints.load(options.init_from).parameters
    for name in dict.fromkeys([*fresh, *taken]):
        have, shape = (tuple(of[name].shape) if name in of else None for of in (taken, fresh))
        if have != shape and not name.startswith("fc8."):
            raise CheckpointError(
                f"--init-from {options.init_from}: {name} is {have}, expected {shape}; give the options of its network"
            )
    return {name: taken[name] if taken[name].shape == start.shape else start for name, start in fresh.items()}
