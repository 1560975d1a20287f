"""Own the output folder of a conversion: lock it, check what it holds, clear what a crash left.

A folder belongs to one plan, recorded in ``plan.json`` from the start until ``manifest.json`` declares the folder
finished. A lock on the folder keeps a second process out; the kernel releases it when its process ends, however that
happens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexstream.core.errors import OutputError
from alexstream.core.locks import try_lock
from alexstream.core.schema import parse_json
from alexstream.core.storage import delete_file, fsync_folder, list_folder, publish_file, read_small, target_name
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.document import SCHEMA, json_bytes
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest

# The files that a conversion writes; any other file in its folder is not ours.
_FIXED_NAMES = (layout.PLAN, layout.MANIFEST, layout.STATS, layout.MEAN, layout.CLASSES, layout.QUARANTINE, layout.CARD)
_OUTPUT_NAMES = (*_FIXED_NAMES, layout.TIMM_INFO, *(f"{split}.json" for split in layout.SPLITS))
_SHARD_FILE = re.compile(r"[a-z]+-[0-9]{6,}\.(?:tar|idx|parquet|part)")


def check_output_apart(source: Path, folder: Path) -> None:
    """Raise OutputError if the output folder is the source, lies inside it, or contains it, also by links.

    The next conversion of that source would take shards for images. Places in an object store are compared as they are.
    """
    source, out = (Path(os.path.realpath(one)) if isinstance(one, Path) else one for one in (source, folder))
    if type(source) is not type(out):
        return
    where = "is" if out == source else "lies inside" if source in out.parents else ""
    where = where or ("contains" if out in source.parents else "")
    if where:
        raise OutputError(
            f"`folder` {folder} {where} the source; give a folder apart from it, so that neither is in the other"
        )


def check_parent_of_splits(folder: Path) -> None:
    """Check the folder that gets a subfolder for each split, as ``open_output_folder`` does for a single split.

    Raises OutputError if it is a data set itself, or holds files of others and no split that was begun here.
    """
    if layout.is_dataset(folder) or (folder / layout.PLAN).is_file():
        raise OutputError(
            f"`folder` {folder} holds a data set of one split, and the splits of this source would lie inside it; give "
            "another `folder`"
        )
    if not folder.is_dir():
        return
    begun = any((folder / split / name).is_file() for split in layout.SPLITS for name in (layout.PLAN, layout.MANIFEST))
    if not begun and not all(_is_empty_split(path) for path in list_folder(folder)):
        raise OutputError(f"`folder` {folder} is not empty and is not a data set of alexstream; give another `folder`")


def _is_empty_split(path: Path) -> bool:
    return path.name in layout.SPLITS and path.is_dir() and not list_folder(path)


@contextmanager
def open_output_folder(folder: Path, plan_digest: str, split: str) -> Iterator[Manifest | None]:
    """Lock ``folder`` for a plan; yield its manifest if that plan is already finished there, else None.

    Raises OutputError, changing nothing, if the folder cannot be made, is in use, holds another data set or plan, or
    holds files that are not ours.
    """
    with _lock_folder(folder):
        manifest = _load_finished(folder, plan_digest)
        if manifest is None:
            _start_plan(folder, plan_digest, split)
        else:
            clear_leftovers(folder)
        yield manifest


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Make the folder and lock it.

    An object store has neither folders nor locks: there only the recorded plan keeps another conversion out, and two
    processes with the same plan write the same objects.
    """
    if not isinstance(folder, Path):
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"`folder` {folder} is a file; give a folder")
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            remedy = "make its target, or give another `folder`"
            raise OutputError(f"`folder` {folder}: {place} is a link that leads nowhere; {remedy}")
    try:
        _make_folder(folder)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        remedy = "fix that and run the same command again, or give another `folder`"
        raise OutputError(f"cannot make `folder` {folder}: {error.strerror}; {remedy}") from error
    try:
        _acquire_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make the folder and its parents, and sync their names to disk before anything is put into them."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def clear_leftovers(folder: Path) -> None:
    """Delete what only an unfinished conversion needs: plan, resume records and half-written files.

    Files whose names no conversion makes (``notes.part``, ``work.tmp``) are not ours and stay.
    """
    _delete_matching(folder, _is_leftover)


def _is_leftover(name: str) -> bool:
    is_part = name.endswith(".part") and _SHARD_FILE.fullmatch(name) is not None
    return name == layout.PLAN or is_part or _is_half_written(name)


def _is_half_written(name: str) -> bool:
    whole = target_name(name) or ""
    return whole in _OUTPUT_NAMES or _SHARD_FILE.fullmatch(whole) is not None


def _delete_matching(folder: Path, is_leftover: Callable[[str], bool]) -> None:
    """Delete the files with leftover names; by listing, since the folder's path may hold wildcard characters."""
    for path in sorted(list_folder(folder)):
        if not is_leftover(path.name):
            continue
        try:
            delete_file(path)
        except OSError as error:
            remedy = "fix that and run the same command again"
            raise OutputError(f"cannot delete {path}: {error.strerror}; {remedy}") from error


def _acquire_lock(descriptor: int, folder: Path) -> None:
    if not try_lock(descriptor):
        raise OutputError(f"`folder` {folder} is in use by another conversion; wait for it, or stop it")


def _load_finished(folder: Path, plan_digest: str) -> Manifest | None:
    if not layout.is_dataset(folder):
        return None
    manifest = load_manifest(folder)
    if manifest.plan_digest != plan_digest:
        dct = ", stored with the fast DCT of an earlier version" if manifest.encode.dct == "fast" else ""
        raise OutputError(
            f"`folder` {folder} holds another data set ({count_of(manifest.num_samples, f'{manifest.split} sample')} "
            f"of {quote_value(manifest.source)}, digest {manifest.digest[:12]}…{dct}); nothing was changed: give "
            "another `folder`"
        )
    for record in manifest.shards:
        tar = layout.shard_paths(folder, record.name).tar
        size = tar.stat().st_size if tar.is_file() else -1
        if size != record.num_bytes:
            found = "is missing" if size < 0 else f"has {size} bytes"
            raise OutputError(
                f"`folder` {folder} is finished by its manifest, but {tar.name} {found}, expected "
                f"{record.num_bytes} bytes; restore the file, or delete the folder and run again"
            )
    return manifest


def _start_plan(folder: Path, plan_digest: str, split: str) -> None:
    plan = folder / layout.PLAN
    if plan.is_file():
        _check_plan(plan, plan_digest)
    elif folder.exists() and not all(_is_half_written(path.name) for path in list_folder(folder)):
        if splits := [path.name for path in list_folder(folder) if layout.is_dataset(path)]:
            raise OutputError(
                f"`folder` {folder} holds a data set of several splits ({', '.join(splits)}), and this source is "
                f"read as {split} alone; give another `folder`, or the options that made the splits, as `val_share`"
            )
        raise OutputError(f"`folder` {folder} is not empty and is not a data set of alexstream; give another `folder`")
    _delete_matching(folder, _is_half_written)
    content = {"schema": SCHEMA, "rules": layout.RULES_VERSION, "split": split, "plan": plan_digest}
    publish_file(plan, json_bytes(content))


def _check_plan(plan: Path, plan_digest: str) -> None:
    """Raise OutputError unless an unfinished conversion has this plan, under the rules of this version."""
    found = _read_plan(plan)
    if found and found.get("rules", 1) != layout.RULES_VERSION:
        raise OutputError(
            f"`folder` {plan.parent} holds an unfinished conversion of another version of alexstream, by which files "
            "were accepted or stored otherwise; finish it with that version, give another `folder`, or delete the "
            "folder"
        )
    if found.get("plan") != plan_digest:
        raise OutputError(
            f"`folder` {plan.parent} holds an unfinished conversion of another source, seed or recipe "
            f"({plan.name} differs from this plan); give another `folder`, or delete the folder"
        )


def _read_plan(plan: Path) -> dict[str, Any]:
    """Return the fields of ``plan.json``; {} if it is damaged."""
    try:
        found = parse_json(read_small(plan, 1 << 16))
    except ValueError:
        return {}
    except OSError as error:
        raise OutputError(f"cannot read {plan}: {error.strerror}; fix that and run the same command again") from error
    return found if isinstance(found, dict) else {}
