"""The output folder of a conversion: who may write to it, what it already holds, what a crash left in it.

A folder belongs to one plan. ``plan.json`` says which, from the first moment until ``manifest.json`` declares the
folder finished. A lock on the folder itself keeps a second process out and needs no cleaning up: it ends with the
process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharding import layout
from sharding.errors import OutputError
from sharding.fields import parsed
from sharding.storage import publish, sync_names


@contextmanager
def claimed(folder: Path, plan_digest: str, split: str) -> Iterator[layout.Manifest | None]:
    """Hold ``folder`` for a plan; gives the manifest if that plan is already finished there, else None.

    Raises OutputError if the folder cannot be made, is in use, holds another data set or plan, or holds files that
    are not ours; nothing in it is changed then.
    """
    with _held(folder):
        manifest = _finished(folder, plan_digest)
        if manifest is None:
            _start(folder, plan_digest, split)
        else:
            clear_leftovers(folder)
        yield manifest


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make the folder and lock it.

    An object store has neither folders nor locks. There the plan alone keeps another conversion out; two processes
    with the same plan write the same objects.
    """
    if not isinstance(folder, Path):
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--out {folder} is a file; give a folder")
    try:
        _make(folder)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        remedy = "mend that and run the same command again, or give another --out"
        raise OutputError(f"cannot make --out {folder}: {error.strerror}; {remedy}") from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    """Make the folder and those above it; their names are on the disk before anything is put into them."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_names(folder.parent)


def clear_leftovers(folder: Path) -> None:
    """Delete what only an unfinished conversion needs: the plan, the shards' parts and half-written files."""
    _delete(folder, layout.PLAN, "*.part", "*.tmp")


def _delete(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                remedy = "mend that and run the same command again"
                raise OutputError(f"cannot delete {path}: {error.strerror}; {remedy}") from error


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise OutputError(f"--out {folder} is in use by another conversion; wait for it, or stop it") from error
        # Some network file systems know no locks; published files are complete all the same.


def _finished(folder: Path, plan_digest: str) -> layout.Manifest | None:
    if not layout.is_dataset(folder):
        return None
    manifest = layout.load_manifest(folder)
    if manifest.plan_digest != plan_digest:
        raise OutputError(
            f"--out {folder} holds another data set ({manifest.num_samples} {manifest.split} samples of "
            f"{manifest.source!r}, digest {manifest.digest[:12]}…); nothing was changed: give another --out"
        )
    for record in manifest.shards:
        tar = folder / f"{record.name}.tar"
        size = tar.stat().st_size if tar.is_file() else -1
        if size != record.num_bytes:
            found = "is missing" if size < 0 else f"has {size} bytes"
            raise OutputError(
                f"--out {folder} is finished by its manifest, but {tar.name} {found}, expected "
                f"{record.num_bytes} bytes; restore the file, or delete the folder and run again"
            )
    return manifest


def _start(folder: Path, plan_digest: str, split: str) -> None:
    plan = folder / layout.PLAN
    if plan.is_file():
        if _plan_of(plan) != plan_digest:
            raise OutputError(
                f"--out {folder} holds an unfinished conversion of another source, seed or recipe "
                f"({plan.name} differs from this plan); give another --out, or delete the folder"
            )
    elif folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir()):
        raise OutputError(f"--out {folder} is not empty and holds no data set of alexstream; give another --out")
    _delete(folder, "*.tmp")
    publish(plan, layout.json_bytes({"schema": layout.SCHEMA, "split": split, "plan": plan_digest}))


def _plan_of(plan: Path) -> str | None:
    try:
        found = parsed(plan.read_bytes()).get("plan")
    except (ValueError, AttributeError):
        return None
    except OSError as error:
        raise OutputError(f"cannot read {plan}: {error.strerror}; mend that and run the same command again") from error
    return str(found)
