"""Checkpoints: canonical (topology-free), atomic, loaded without running code from the file.

``checkpoint-000250.pt`` holds parameters and velocity in the single-device layout, the stream position (one
step number), the validation errors so far, the recipe, and the identities of the data. ``latest`` names the
newest; it moves after the checkpoint is on disk. The newest few stay.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.batch import DataFacts
from trainer.errors import CheckpointError, TrainError
from trainer.recipe import Recipe

SCHEMA = "alexstream-checkpoint/1"
LATEST = "latest"
KEEP = 2

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a run after ``step`` steps; tensors are canonical, float32, on the CPU."""

    step: int
    errors: tuple[float, ...]
    recipe: Recipe
    data: dict[str, Any]
    parameters: Tensors
    velocity: Tensors

    def require(self, facts: DataFacts, recipe: Recipe, origin: Path) -> None:
        """Raise CheckpointError, naming both values, unless this run has the same data, order and recipe."""
        want = {**_identity(facts), **asdict(recipe)}
        have = {"order": "global", **self.data, **asdict(self.recipe)}  # the only order there was, once
        for name, value in want.items():
            if have.get(name) != value:
                raise CheckpointError(
                    f"{origin}: made with {name} = {have.get(name)!r}, but this run has {value!r}; "
                    "use the same data and options, or another --run folder"
                )


def save(folder: Path, checkpoint: Checkpoint, keep: int = KEEP) -> Path:
    """Write a checkpoint, move ``latest`` to it, and delete all but the newest ``keep``.

    Raises TrainError if it cannot.
    """
    path = folder / f"checkpoint-{checkpoint.step:08d}.pt"
    buffer = io.BytesIO()
    state = {**asdict(checkpoint), "schema": SCHEMA, "errors": list(checkpoint.errors)}
    torch.save(state, buffer)
    try:
        _write(path, buffer.getvalue())
        _write(folder / LATEST, f"{path.name}\n".encode())
        for old in sorted(folder.glob("checkpoint-*.pt"))[:-keep]:
            old.unlink()
    except OSError as error:
        raise TrainError(f"cannot write {path}: {error.strerror}; the checkpoint before it is intact") from error
    return path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, or None. Raises CheckpointError if ``latest`` names no file."""
    pointer = folder / LATEST
    if not pointer.is_file():
        return None
    name = pointer.read_text().strip()
    if not re.fullmatch(r"checkpoint-\d{8}\.pt", name) or not (folder / name).is_file():
        raise CheckpointError(f"{pointer} names {name!r}, which is not in {folder}; name one with --checkpoint")
    return folder / name


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, or the newest of a run folder. Raises CheckpointError if missing or damaged."""
    if path.is_dir():
        newest = latest(path)
        if newest is None:
            raise CheckpointError(f"{path} holds no checkpoint; train one with: cli.py train --run {path}")
        path = newest
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's hints about foreign pickles; they end in the error below
            state = torch.load(path, map_location="cpu", weights_only=True)
        if state.pop("schema") != SCHEMA:
            raise CheckpointError(f"{path}: not of schema {SCHEMA}")
        state["recipe"], state["errors"] = Recipe.of(state["recipe"]), tuple(state["errors"])
        return Checkpoint(**state)
    except (RuntimeError, KeyError, TypeError, AttributeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: no readable checkpoint ({message})") from error


def checkpoint_data(facts: DataFacts) -> dict[str, Any]:
    """What a checkpoint records of the data: the identity that must match, and the class names."""
    return {**_identity(facts), "classes": list(facts.classes)}


def _identity(facts: DataFacts) -> dict[str, Any]:
    names = ("train_digest", "augmentation", "order", "seed", "batch_size")
    return {name: getattr(facts, name) for name in names}


def _write(path: Path, data: bytes) -> None:
    tmp = path.with_name(path.name + ".tmp")
    with open(tmp, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(tmp, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
