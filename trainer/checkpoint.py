"""Checkpoints: canonical (topology-free), atomic, loaded without running code from the file.

``checkpoint-00000250.pt`` holds parameters and velocity in the single-device layout, the stream position (one
step number), the validation errors so far, the recipe, and the identities of the data. ``latest`` names the
newest; it moves after the checkpoint is on disk. The newest few stay.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.batch import DataFacts
from sharding.errors import OutputError
from sharding.fields import decoded
from sharding.storage import pending, publish
from trainer.errors import CheckpointError, TrainError
from trainer.recipe import Recipe
from trainer.sealed import is_as_sealed, seal

SCHEMA, UNSEALED = "alexstream-checkpoint/2", "alexstream-checkpoint/1"  # the first had no checksum
LATEST, FILES = "latest", "checkpoint-*.pt"
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

    def __post_init__(self) -> None:
        """Refuse what no run saves."""
        if self.step < 0:
            raise ValueError(f"step is {self.step}")
        for tensors in (self.parameters, self.velocity):
            _check_tensors(tensors)

    def not_numbers(self) -> str | None:
        """The name of a tensor that holds infinity or NaN, if there is one."""
        for name, tensor in (*self.parameters.items(), *self.velocity.items()):
            if not torch.isfinite(tensor).all():
                return name
        return None

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
    """Write a checkpoint, move ``latest`` to it, and delete all but ``keep`` of those up to it.

    Raises TrainError if it cannot, or if a value in it is not a number.
    """
    path = folder / f"checkpoint-{checkpoint.step:08d}.pt"
    if wrong := checkpoint.not_numbers():
        raise TrainError(
            f"{wrong} is not a number after step {checkpoint.step}, so nothing was saved; the last checkpoint is "
            "intact: start again with a smaller --lr"
        )
    buffer = io.BytesIO()
    torch.save({**asdict(checkpoint), "schema": SCHEMA, "errors": list(checkpoint.errors)}, buffer)
    try:
        with pending(path) as write:
            comment = seal(buffer)
            write.file.write(buffer.getbuffer())
            write.file.write(comment)
            write.commit()
        publish(folder / LATEST, f"{path.name}\n".encode())
        # One of a later step is left by a run that went back to an older checkpoint: it will be written again.
        for old in sorted(old for old in folder.glob(FILES) if old.name <= path.name)[:-keep]:
            old.unlink()
    except (OutputError, OSError) as error:
        raise TrainError(
            f"cannot write {path}: {reason(error)}; the checkpoint before it is intact: make room and continue with "
            "--resume"
        ) from error
    return path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, or None. Raises CheckpointError if ``latest`` names no file."""
    pointer = folder / LATEST
    if not pointer.is_file():  # a kill may come between the first checkpoint and the pointer to it
        return max(folder.glob(FILES), default=None)
    name = pointer.read_text("utf-8", "replace").strip()
    if not re.fullmatch(r"checkpoint-\d{8}\.pt", name) or not (folder / name).is_file():
        raise CheckpointError(f"{pointer} names {name!r}, which is not in {folder}; name one with --checkpoint")
    return folder / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The newest checkpoint that can be read, and what is wrong with newer ones."""

    path: Path
    state: Checkpoint
    refused: tuple[str, ...] = ()


def restore(folder: Path) -> Restored | None:
    """What a run goes on from, or None if its folder holds no checkpoint.

    The one that ``latest`` names, or, if that is damaged, the newest of the others. Raises CheckpointError if all are.
    """
    refused = []
    try:
        newest = latest(folder)
    except CheckpointError as error:
        newest = None
        refused.append(str(error))
    others = sorted((path for path in folder.glob(FILES) if path != newest), reverse=True)
    for path in [newest, *others] if newest else others:
        try:
            return Restored(path=path, state=load(path), refused=tuple(refused))
        except CheckpointError as error:
            refused.append(str(error))
    if not refused:
        return None
    raise CheckpointError(
        f"{folder}: no checkpoint can be read, {refused[0]}; nothing was deleted: bring one back from a copy, or start "
        "anew in another --run folder"
    )


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
        loaded = _read(path)
    except CheckpointError:
        raise
    except Exception as error:  # torch's reader of damaged files fails in every way there is
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: no readable checkpoint ({message})") from error
    if wrong := loaded.not_numbers():
        raise CheckpointError(f"{path}: {wrong} is not a number; take an older checkpoint, or a smaller --lr")
    return loaded


def _read(path: Path) -> Checkpoint:
    sealed = is_as_sealed(path)
    if sealed is False:
        raise CheckpointError(f"{path}: no readable checkpoint (its sha256 is not that of what was written)")
    _check_stored(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's hints about foreign pickles; they end in an error
        state = torch.load(path, map_location="cpu", weights_only=True)
    schema = state.pop("schema", None) if isinstance(state, dict) else None
    if schema not in (SCHEMA, UNSEALED):
        raise CheckpointError(f"{path}: not of schema {SCHEMA}")
    if schema == SCHEMA and not sealed:
        raise CheckpointError(f"{path}: no readable checkpoint (its end, which holds its sha256, is missing)")
    return decoded(Checkpoint, {"velocity": {}, **state})


def _check_stored(path: Path) -> None:
    """Raises ValueError unless it is a zip archive that holds as many bytes as it claims: none are packed in ours."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(one.file_size for one in archive.infolist())
        if claimed > path.stat().st_size or any(one.compress_type for one in archive.infolist()):
            raise ValueError("its parts are packed, or claim to be larger than the file")


def _check_tensors(tensors: Tensors) -> None:
    """Raises ValueError for tensors that are not what is saved: one may claim terabytes and store four bytes."""
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.dtype is torch.float32 and tensor.device.type == "cpu"
        if not plain or tensor.numel() * 4 > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} is no tensor that was saved")


def checkpoint_data(facts: DataFacts) -> dict[str, Any]:
    """What a checkpoint records of the data: the identity that must match, and the class names."""
    return {**_identity(facts), "classes": list(facts.classes)}


def _identity(facts: DataFacts) -> dict[str, Any]:
    names = ("train_digest", "augmentation", "order", "seed", "batch_size")
    return {name: getattr(facts, name) for name in names}


def reason(error: OSError | OutputError) -> str:
    """Why something was not written, in the system's words."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    return getattr(cause, "strerror", None) or str(error)
