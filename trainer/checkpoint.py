"""Checkpoints: independent of the number of devices, written atomically, loaded without running code from the file.

``checkpoint-00000250.pt`` holds parameters and velocity in the layout of a single device, the position in the stream
(one step number), the validation errors so far, the recipe, the identity of the data, and what turns a picture into
the network's input. The file ``latest`` names the newest one; it is updated after the checkpoint is on disk. Only the
newest few are kept.

At the end of the file, which is a zip archive, stands the sha256 of everything before it, as the archive's comment,
which readers such as torch and zipfile ignore. Without it, a flipped bit in a tensor would go unnoticed.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexstream.core.errors import OutputError
from alexstream.core.program import program_name
from alexstream.core.progress import tell_activity
from alexstream.core.schema import FieldsError, from_json
from alexstream.core.storage import open_pending, publish_file, read_small
from alexstream.core.text import quote_value
from alexstream.core.versions import is_newer, newer_version_message, other_version_message
from alexstream.pipeline.batch import DataFacts, ImagePreprocessing
from alexstream.trainer.errors import CheckpointError, CheckpointVersionError, TrainError
from alexstream.trainer.network.geometry import count_parameters, parameter_shapes
from alexstream.trainer.recipe import Recipe
from alexstream.trainer.torch_file import load_torch_file, name_schema, saved_schema

SCHEMA, SCHEMA_WITHOUT_CHECKSUM = "alexstream-checkpoint/2", "alexstream-checkpoint/1"  # the first had no checksum
LATEST_FILE, FILE_GLOB = "latest", "checkpoint-*.pt"
FILE_NAME = re.compile(r"checkpoint-\d{8,}\.pt")  # as ``save`` names them; what else FILES may find is somebody else's
DEFAULT_KEEP = 2
_SMALL = 1 << 20  # numbers in tensors, whose number is not compared with that of a network
_CHECKSUM_COMMENT = re.compile(rb"alexstream sha256 ([0-9a-f]{64})")
_CHECKSUM_COMMENT_BYTES = len("alexstream sha256 ") + 64
_ZIP_END = b"PK\x05\x06"  # start of a zip archive's last record: 22 bytes, of which the last 2 are the comment's length
_CHUNK_BYTES = 1 << 20
_MOST_BATCH = 1 << 30  # images of a batch
_MOST_UNNAMED = 25_000  # classes of a checkpoint that does not say which, as versions before the first stable one

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
    preprocessing: ImagePreprocessing | None = None  # None in checkpoints of version 0.2.0 and before

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step is {self.step}")
        if wrong := [error for error in self.errors if not (math.isnan(error) or 0 <= error <= 1)]:
            raise ValueError(f"errors hold {wrong[0]}, expected 0 to 1, or NaN where there was no validation")
        for tensors in (self.parameters, self.velocity):
            _check_tensors(tensors)
        if self.preprocessing is not None:
            _check_tensors({"mean": self.preprocessing.mean})
            if len(self.preprocessing.class_names) not in (0, len(self.data.get("classes", ()))):
                raise ValueError("preprocessing.class_names are not as many as data.classes")

    def find_non_finite(self) -> str | None:
        """Return the name of a tensor that holds infinity or NaN, or None."""
        mean = {} if self.preprocessing is None else {"mean": self.preprocessing.mean}
        for name, tensor in (*self.parameters.items(), *self.velocity.items(), *mean.items()):
            if not torch.isfinite(tensor).all():
                return name
        return None

    def require_network(self, origin: Path) -> None:
        """Raise CheckpointError unless the parameters are those of a network of the recipe, the velocity alike."""
        last = self.parameters.get("fc8.bias")
        num_classes = last.numel() if last is not None else 1
        expected = parameter_shapes(num_classes, recipe=self.recipe)
        for what, tensors in (("parameter", self.parameters), ("velocity", self.velocity)):
            for name in dict.fromkeys([*expected, *tensors]) if tensors or what == "parameter" else ():
                have, shape = (tuple(tensors[name].shape) if name in tensors else None), expected.get(name)
                if have != shape:
                    raise CheckpointError(
                        f"{origin}: no network of its recipe, {what} {quote_value(name)} is {have or 'missing'}, "
                        f"expected {shape or 'none of that name'}; take another checkpoint, or train one"
                    )
        named = self.data.get("classes")
        if named and len(named) != num_classes:
            raise CheckpointError(
                f"{origin}: has {num_classes} outputs for {len(named)} classes; take another checkpoint, or train one"
            )

    @property
    def num_activations(self) -> int:
        """The number of activations of the last hidden layer: 4096 times the width of the network."""
        return self.parameters["fc8.weight"].shape[1]

    def require_match(self, facts: DataFacts, recipe: Recipe, origin: Path) -> None:
        """Raise CheckpointError, naming all values that differ, unless this run has the same data, order and recipe."""
        want = {**_identity_of_data(facts), **asdict(recipe)}
        have = {"order": "global", **self.data, **asdict(self.recipe)}  # the only order there was, once
        differ = [name for name, value in want.items() if have.get(name) != value]
        if differ:
            made = " and ".join(f"{name} = {quote_value(have.get(name))}" for name in differ)
            asked = " and ".join(quote_value(want[name]) for name in differ)
            raise CheckpointError(
                f"{origin}: made with {made}, but this run has {asked}; use the same data and options, or another "
                "`folder` folder"
            )


def restart_advice(folder: Path) -> str:
    """Return what to do about a run whose loss or weights are not numbers, and whether a checkpoint is left of it."""
    left = "the last checkpoint is intact: " if find_latest(folder) is not None else ""
    return f"{left}start again with a smaller `learning_rate`"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = DEFAULT_KEEP) -> Path:
    """Write a checkpoint, point ``latest`` to it, delete all but the newest ``keep`` up to it, and return its path.

    Raises TrainError if it cannot be written, or if a value in it is infinite or NaN.
    """
    path = folder / f"checkpoint-{checkpoint.step:08d}.pt"
    if wrong := checkpoint.find_non_finite():
        raise TrainError(
            f"{wrong} is not a number after step {checkpoint.step}, so nothing was saved; {restart_advice(folder)}"
        )
    buffer = io.BytesIO()
    torch.save(_to_saved_fields(checkpoint), buffer)
    name_schema(buffer, SCHEMA)
    try:
        with open_pending(path) as write:
            comment = make_checksum_comment(buffer)
            write.file.write(buffer.getbuffer())
            write.file.write(comment)
            write.commit()
        publish_file(folder / LATEST_FILE, f"{path.name}\n".encode())
        # One of a later step is left by a run that went back to an older checkpoint: it will be written again.
        ours = (old for old in folder.glob(FILE_GLOB) if FILE_NAME.fullmatch(old.name) and not old.is_symlink())
        for old in sorted(old for old in ours if old.name <= path.name)[:-keep]:
            old.unlink()
    except (OutputError, OSError) as error:
        raise TrainError(
            f"cannot write {path}: {describe_write_error(error)}; make room and {resume_advice(folder)}"
        ) from error
    return path


def _to_saved_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    fields = {**asdict(checkpoint), "schema": SCHEMA, "errors": list(checkpoint.errors)}
    if checkpoint.preprocessing is None:
        del fields["preprocessing"]
    return fields


def find_latest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run folder, or None. Raises CheckpointError if ``latest`` names no file."""
    pointer = folder / LATEST_FILE
    if not pointer.is_file():  # a kill may come between the first checkpoint and the pointer to it
        return max(folder.glob(FILE_GLOB), default=None)
    name = read_small(pointer, 1 << 12).decode("utf-8", "replace").strip()
    if not re.fullmatch(r"checkpoint-\d{8}\.pt", name) or not (folder / name).is_file():
        raise CheckpointError(
            f"{pointer} names {quote_value(name)}, which is not in {folder}; name one with `checkpoints`"
        )
    return folder / name


def resume_advice(folder: Path | None) -> str:
    """Return advice on how to continue a stopped run: resume it if its folder (None: no folder) holds a checkpoint."""
    if folder is not None and _list_checkpoints(folder):
        return (
            f"step {_find_newest_step(folder)} is kept: continue with: {program_name()} train --resume --run {folder}"
        )
    return "start it again"


def _find_newest_step(folder: Path) -> int:
    return max(int(path.stem.rpartition("-")[2]) for path in _list_checkpoints(folder))


def _list_checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(FILE_GLOB) if FILE_NAME.fullmatch(path.name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredCheckpoint:
    """The newest checkpoint that can be read, and the errors of newer ones."""

    path: Path
    state: Checkpoint
    skipped: tuple[str, ...] = ()


def restore_checkpoint(folder: Path) -> RestoredCheckpoint | None:
    """Load the checkpoint from which to resume a run, or return None if its folder holds none.

    Tries the one that ``latest`` names first, then the others from new to old. Raises CheckpointError if all are
    damaged; CheckpointVersionError for one made by another version of alexstream.
    """
    refused = []
    try:
        newest = find_latest(folder)
    except CheckpointError as error:
        newest = None
        refused.append(str(error))
    others = sorted((path for path in folder.glob(FILE_GLOB) if path != newest), reverse=True)
    for path in [newest, *others] if newest else others:
        try:
            return RestoredCheckpoint(path=path, state=load_checkpoint(path), skipped=tuple(refused))
        except CheckpointVersionError:
            raise  # resuming from an older one would discard the progress that the other version has made
        except CheckpointError as error:
            refused.append(str(error))
    if not refused:
        return None
    raise CheckpointError(
        f"{folder}: no checkpoint can be read, {refused[0]}; nothing was deleted: bring one back from a copy, or start "
        "anew in another `folder` folder"
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint: a file, the newest of a run folder, or as ``RUN/latest`` its newest intact one.

    Raises CheckpointError if it is missing or damaged.
    """
    if path.is_dir():
        newest = find_latest(path)
        if newest is None:
            raise _make_missing_error(f"{path} holds no checkpoint")
        path = newest
    elif path.name == LATEST_FILE:
        return _load_newest_intact(path.parent)
    if not path.is_file():
        raise _make_missing_error(f"checkpoint {path} does not exist")
    try:
        with tell_activity(f"reading {path}"):
            loaded = _read_checkpoint(path)
            wrong = loaded.find_non_finite()
    except CheckpointError:
        raise
    except FieldsError as error:
        raise CheckpointVersionError(
            other_version_message(path, error, "train anew, or use the version that made it")
        ) from error
    except Exception as error:  # damaged and hostile files fail in every way there is: MemoryError, BadZipFile, ...
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: no readable checkpoint ({message})") from error
    if wrong:
        raise CheckpointError(
            f"{path}: {wrong} is not a number; take an older checkpoint, or a smaller `learning_rate`"
        )
    return loaded


def _make_missing_error(why: str) -> CheckpointError:
    return CheckpointError(f"{why}; give the folder of a run, or train one with: {program_name()} train DATA --run RUN")


def _load_newest_intact(folder: Path) -> Checkpoint:
    """Load the newest intact checkpoint of a run folder; say on stderr which newer ones are damaged."""
    restored = restore_checkpoint(folder)
    if restored is None:
        raise _make_missing_error(f"{folder} holds no checkpoint")
    if restored.skipped:
        print(f"note: {'; '.join(restored.skipped)}; taking {restored.path.name}", file=sys.stderr)  # noqa: T201
    return restored.state


def _read_checkpoint(path: Path) -> Checkpoint:
    sealed = checksum_matches(path)
    if sealed is False:
        raise CheckpointError(f"{path}: no readable checkpoint (its sha256 is not that of what was written)")
    _check_version(path, saved_schema(path))  # first: what a newer version saves may be more than is read here
    state = load_torch_file(path, _check_due)
    schema = state.pop("schema", None) if isinstance(state, dict) else None
    _check_version(path, schema)
    if schema not in (SCHEMA, SCHEMA_WITHOUT_CHECKSUM):
        raise CheckpointError(f"{path}: not of schema {SCHEMA}")
    if schema == SCHEMA and not sealed:
        raise CheckpointError(f"{path}: no readable checkpoint (its end, which holds its sha256, is missing)")
    preprocessing = _parse_preprocessing(state.pop("preprocessing", None))
    loaded = from_json(Checkpoint, {"velocity": {}, **state})
    identity = from_json(_DataIdentity, loaded.data, "data")
    if identity.order not in ("global", "grouped") or not 1 <= identity.batch_size <= _MOST_BATCH:
        raise ValueError(f"data.order is {quote_value(identity.order)}, data.batch_size {identity.batch_size}")
    return replace(loaded, preprocessing=preprocessing)


def _check_version(path: Path, schema: Any) -> None:
    if is_newer(schema, SCHEMA):
        raise CheckpointVersionError(newer_version_message(path, f"schema {schema}, this one reads {SCHEMA}"))


def _check_due(state: Any) -> None:
    """Raise ValueError for tensors of more numbers than a network of this recipe and these classes, twice, has.

    The mean that pictures are prepared with comes on top.
    """
    fields = state if isinstance(state, dict) else {}
    preprocessing = _parse_preprocessing(fields.get("preprocessing"))
    found = sum(tensor.numel() for tensor in _iter_tensors(fields))
    found -= 0 if preprocessing is None else preprocessing.mean.numel()
    if found <= _SMALL:
        return
    data = fields.get("data")
    classes = data.get("classes") if isinstance(data, dict) else None
    num_classes = len(classes) if isinstance(classes, list | tuple) and classes else _MOST_UNNAMED
    most = 2 * count_parameters(num_classes, from_json(Recipe, fields.get("recipe"), "recipe"))
    if found > most:
        raise ValueError(f"its tensors have {found:,} numbers, its network, with the velocity, {most:,}")


def _iter_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in dicts in dicts, which are those that are read."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _iter_tensors(inner)


def _parse_preprocessing(saved: Any) -> ImagePreprocessing | None:
    return None if saved is None else from_json(ImagePreprocessing, saved, "preprocessing")


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataIdentity:
    """Fields of ``data`` and their types; versions before the first stable one left some out."""

    train_digest: str = ""
    augmentation: str = ""
    order: str = "global"  # the only order there was, once
    seed: int = 0
    batch_size: int = 1
    classes: tuple[str, ...] = ()


def _check_tensors(tensors: Tensors) -> None:
    """Raise ValueError unless all tensors are float32 on the CPU and their values are stored.

    A tensor in a hostile file can claim terabytes and store four bytes (strides of 0).
    """
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.dtype is torch.float32 and tensor.device.type == "cpu"
        if not plain or tensor.numel() * 4 > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} is no tensor that was saved")


def make_checkpoint_data(facts: DataFacts) -> dict[str, Any]:
    """Return what a checkpoint records of the data: the identity that must match, and the class names."""
    return {**_identity_of_data(facts), "classes": list(facts.classes)}


def _identity_of_data(facts: DataFacts) -> dict[str, Any]:
    names = ("train_digest", "augmentation", "order", "seed", "batch_size")
    return {name: getattr(facts, name) for name in names}


def describe_write_error(error: OSError | OutputError) -> str:
    """Return the operating system's reason for a failed write."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    return getattr(cause, "strerror", None) or str(error)


def make_checksum_comment(archive: io.BytesIO) -> bytes:
    """Return the checksum comment to write after ``archive``, whose comment length is set for it, in place."""
    with archive.getbuffer() as view:
        if bytes(view[-22:-18]) != _ZIP_END:
            raise AssertionError("torch.save wrote no plain zip archive")
        view[-2:] = struct.pack("<H", _CHECKSUM_COMMENT_BYTES)
        return b"alexstream sha256 " + hashlib.sha256(view).hexdigest().encode()


def checksum_matches(path: Path) -> bool | None:
    """Return whether a file matches its checksum; None if it has none. Raises OSError if it cannot be read."""
    left = path.stat().st_size - _CHECKSUM_COMMENT_BYTES
    if left < 0:
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(left)
        found = _CHECKSUM_COMMENT.fullmatch(file.read(_CHECKSUM_COMMENT_BYTES + 1))
        if found is None:  # a file of any size, perhaps a hole: not read
            return None
        file.seek(0)
        while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
    return found[1].decode() == digest.hexdigest()
