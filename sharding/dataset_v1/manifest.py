"""The manifest of a data set (recipe, classes, shards, audit counts, digest), and the folders that have one."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alexstream.core.errors import DatasetError, DatasetVersionError
from alexstream.core.schema import FieldsError, from_json
from alexstream.core.storage import list_folder
from alexstream.core.text import quote_value
from alexstream.core.versions import other_version_message
from alexstream.sharding.dataset_v1.document import SCHEMA, SHARD_AGAIN, json_digest, load_document, save_document
from alexstream.sharding.dataset_v1.layout import MANIFEST, is_dataset
from alexstream.sharding.dataset_v1.missing import describe_missing_dataset, has_dataset_files
from alexstream.sharding.dataset_v1.recipe import MAX_FAST_DCT_QUALITY, EncodeRecipe

_MAX_BYTES = 64 << 20  # of a manifest of 10^5 shards
MIN_SAMPLE_BYTES = 2048  # minimum per sample in a tar: two members, each a header and a block of content
_ROOM = 64 << 20  # bytes of a shard above what its samples take: a sample that is too large is named, not the manifest
_SHARD_NAME = re.compile(r"[a-z]+-[0-9]{6,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """One finished shard as the manifest lists it: tar, DALI index and catalog share the stem ``name``.

    Args:
        name: The stem, as ``train-000042``.
        num_samples: Samples in it.
        num_bytes: The size of the tar.
        sha256: Of the tar.
        index_sha256: Of DALI's index.
        catalog_sha256: Of the catalog.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    catalog_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The audit identity of one class or of the whole split: found = written + quarantined + excluded.

    Args:
        found: Files in the source.
        written: Samples in the shards.
        quarantined: Files that were refused by what is in them, each with a reason.
        excluded: Files that were left out by their names.
    """

    found: int
    written: int
    quarantined: int
    excluded: int

    def __post_init__(self) -> None:
        """Raise DatasetError for counts that do not add up: a file would be lost or invented."""
        if self.found != self.written + self.quarantined + self.excluded:
            raise DatasetError(
                f"counts do not add up: found {self.found} != written {self.written} "
                f"+ quarantined {self.quarantined} + excluded {self.excluded}"
            )
        if min(self.found, self.written, self.quarantined, self.excluded) < 0:
            raise DatasetError(f"counts below zero: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of a DATASET v1 folder: recipe, classes (index = label), shards, audit counts, digest.

    Args:
        split: Its name: ``train``, ``val`` or ``test``.
        seed: Decided the order of the samples.
        encode: How images were stored.
        plan_digest: sha256 of what was to be converted, in which order and how.
        source: What the source was called.
        source_form: What the source was recognised as.
        classes: Their names; the index is the label.
        shards: In the order of the samples.
        quarantine_sha256: Of the list of files that were left out.
        counts: Of the whole split.
        counts_by_class: The same by the names of the classes.
        ilsvrc2012_ids: ILSVRC2012's own numbers of the classes by wnid, where known.
        class_names: The classes' names for people by wnid, where known.
        notices: What was remarkable about the source.
        tool: The versions of the programs that made it.
    """

    split: str
    seed: int
    encode: EncodeRecipe
    plan_digest: str
    source: str
    source_form: str
    classes: tuple[str, ...]
    shards: tuple[ShardRecord, ...]
    quarantine_sha256: str
    counts: Counts
    counts_by_class: dict[str, Counts] = field(default_factory=dict)
    ilsvrc2012_ids: dict[str, int] = field(default_factory=dict)
    class_names: dict[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    tool: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Sha256 over schema, split, classes and every shard's name, size and sha256: the data's identity."""
        shards = [[s.name, s.num_samples, s.sha256] for s in self.shards]
        return json_digest([SCHEMA, self.split, list(self.classes), shards])

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, which declares the folder complete."""
    save_document(folder / MANIFEST, {**asdict(manifest), "digest": manifest.digest})


def load_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises DatasetError if it is missing, of another schema, malformed, or contradicts its own digest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(describe_missing_dataset(folder))
    raw = load_document(path, most=_MAX_BYTES, missing=f"{path} is gone")
    digest = str(raw.pop("digest", None))
    try:
        manifest = from_json(Manifest, _add_missing_dct(raw))
        _check_consistent(manifest)
    except FieldsError as error:
        raise DatasetVersionError(other_version_message(path, error, SHARD_AGAIN)) from error
    except (ValueError, DatasetError) as error:
        raise DatasetError(f"{path}: malformed manifest ({error}); shard the source again") from error
    if digest != manifest.digest:
        raise DatasetError(
            f"{path}: records digest {digest[:12]}… but its shard list gives {manifest.digest[:12]}…; "
            "the manifest was edited or mixed up: shard the source again"
        )
    return manifest


def _add_missing_dct(raw: dict[str, Any]) -> dict[str, Any]:
    """Add the DCT to a manifest that was written before it was recorded."""
    encode = raw.get("encode")
    if not isinstance(encode, dict) or "dct" in encode:
        return raw
    quality = encode.get("quality")
    is_fast = isinstance(quality, int) and quality <= MAX_FAST_DCT_QUALITY
    return {**raw, "encode": {**encode, "dct": "fast" if is_fast else "accurate"}}


def _check_consistent(manifest: Manifest) -> None:
    """Raise ValueError for contradictions, shard names that leave the folder, and impossible sizes."""
    names = [shard.name for shard in manifest.shards]
    right = all(_SHARD_NAME.fullmatch(name) and name.rpartition("-")[0] == manifest.split for name in names)
    if not names or not right or len(set(names)) < len(names):
        raise ValueError(f"shards: not some of the split {quote_value(manifest.split)}, each once")
    if any(not 0 <= shard.num_samples * MIN_SAMPLE_BYTES <= shard.num_bytes for shard in manifest.shards):
        raise ValueError("shards: more samples than their bytes can hold")
    most = manifest.encode.most_bytes + MIN_SAMPLE_BYTES
    if any(shard.num_bytes > _ROOM + shard.num_samples * most for shard in manifest.shards):
        raise ValueError("shards: more bytes than their samples can take")
    if not manifest.classes or len(set(manifest.classes)) < len(manifest.classes):
        raise ValueError("classes: none, or one twice")
    if set(manifest.counts_by_class) != set(manifest.classes):
        raise ValueError("counts_by_class: not of the classes")


def find_split(folder: Path, split: str) -> Path | None:
    """Return the folder of a split: ``folder`` itself if it holds that split, else ``folder/split``, else None.

    Raises DatasetError for a manifest that is no file, so that a split is never passed over for it.
    """
    _check_is_file(folder)
    _check_is_file(folder / split)
    if is_dataset(folder) and load_manifest(folder).split == split:
        return folder
    return folder / split if is_dataset(folder / split) else None


def list_split_folders(folder: Path, *, damaged: bool = False) -> list[Path]:
    """Return the split folders: ``folder`` itself, or its children with a manifest, training first.

    ``damaged``: also children that hold files of a data set but no manifest. Raises DatasetError if there are none, or
    for a manifest that is no file.
    """
    _check_is_file(folder)
    if is_dataset(folder):
        return [folder]
    order = {"train": "0", "val": "1"}
    listed = list_folder(folder) if folder.is_dir() else []
    for path in () if damaged else listed:
        _check_is_file(path)
    children = [path for path in listed if is_dataset(path) or (damaged and has_dataset_files(path))]
    if not children:
        raise DatasetError(describe_missing_dataset(folder))
    return sorted(children, key=lambda path: order.get(path.name, path.name))


def _check_is_file(folder: Path) -> None:
    """Raise DatasetError if the manifest of a local folder is there and is a pipe, a folder, a broken link …"""
    path = folder / MANIFEST
    if isinstance(path, Path) and os.path.lexists(path) and not path.is_file():
        raise DatasetError(f"{path} is no file, or a link to none; restore the manifest, or shard the source again")
