"""Refuse data formats of other programs, naming the format and a way to convert it.

A format is recognized by file names and, where other files share the name, by the first bytes.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.storage import open_regular
from alexstream.sharding.sources.files import (
    FolderItem,
    has_system_part,
    is_image_name,
    is_system,
    list_items,
    may_be_image,
    open_range_file,
    read_start,
)
from alexstream.sharding.sources.split_words import split_of_word
from alexstream.sharding.sources.tars.walk import walk_tar

_MAX_FOLDERS, _MAX_DEPTH, _MAX_FILES = 64, 5, 1000  # limits of the search: folders in all, levels, files per folder
_INDEX_EXTENSION = ".idx"  # index files beside RecordIO and TFRecord
_COCO = re.compile(r"(instances|captions|person_keypoints)_.*\.json$|_annotations\.coco\.json$")
_EXPORT_REMEDY = "write its images into one folder per class, or as WebDataset or Parquet"
_UNPACK_REMEDY = "unpack it, or turn it into a plain .tar"


class _Format(NamedTuple):
    """A format: ``names`` is a regular expression searched in the lower-case name; ``starts``: possible first bytes."""

    display_name: str
    names: str
    remedy: str
    starts: tuple[bytes, ...] = ()


_FORMATS = (
    _Format("TFRecord", r"\.tfrecords?\b|tfrecord", f"{_EXPORT_REMEDY} (tensorflow_datasets or tf.data reads it)"),
    _Format("LMDB", r"^(data|lock)\.mdb$|\.lmdb$", f"{_EXPORT_REMEDY} (the Python package lmdb reads it)"),
    _Format("FFCV (.beton)", r"\.beton$", "shard the images that it was made of, or write them into class folders"),
    _Format("MDS (MosaicML Streaming)", r"\.mds(\.\w+)?$", f"{_EXPORT_REMEDY} (streaming.StreamingDataset reads it)"),
    _Format(
        "Arrow (datasets.save_to_disk)", r"\.arrow$|\.feather$",
        "turn it into Parquet, which is read: datasets.load_from_disk(FOLDER)['train'].to_parquet('train.parquet')",
    ),
    _Format("RecordIO (MXNet)", r"\.rec$", f"{_EXPORT_REMEDY} (mxnet.recordio reads it)", (b"\x0a\x23\xd7\xce",)),
    _Format("HDF5", r"\.(h5|hdf5|hdf|he5)$", f"{_EXPORT_REMEDY} (h5py reads it)"),
    _Format("NumPy", r"\.np[yz]$", f"{_EXPORT_REMEDY} (numpy.load reads it)"),
    _Format("MATLAB", r"\.mat$", f"{_EXPORT_REMEDY} (scipy.io.loadmat reads it)"),
    _Format("MNIST (IDX)", r"idx[123]-ubyte", f"{_EXPORT_REMEDY} (torchvision.datasets.MNIST reads it)"),
    _Format(
        "CIFAR (batches of Python or binary)", r"^(data_batch_\d|test_batch)(\.bin)?$|^batches\.meta",
        f"{_EXPORT_REMEDY} (torchvision.datasets.CIFAR10 reads it)",
    ),
    _Format(
        "pickled Python", r"\.(pkl|pickle|pt|pth|joblib)$|^(train|test|meta)$", _EXPORT_REMEDY, (b"\x80", b"PK\x03\x04")
    ),
    _Format("a video", r"\.(mp4|avi|mov|mkv|webm)$", "write its pictures into one folder per class"),
    _Format(
        "compressed", r"\.(zip|gz|tgz|bz2|xz|zst|7z|rar)$", f"images cannot be read in place: {_UNPACK_REMEDY}, first"
    ),
)  # fmt: skip


def refuse_foreign(root: Path, listed: Sequence[FolderItem]) -> None:
    """Raise SourceError, with the format and the remedy, if a folder holds foreign data and no images.

    Also for annotations of detection sets (COCO, YOLO, Pascal VOC) beside images.
    """
    _refuse_annotations(root, listed)
    files = list(_iter_files(root))
    if any(is_image_name(path) for path in files):
        return
    told = [(path, found) for path in files if (found := detect_format(path, _make_reader(root / path)))]
    named = {path for path, _ in told}
    others = (path.rpartition("/")[2] for path in files if path not in named and not path.endswith(_INDEX_EXTENSION))
    if not told or any(map(may_be_image, others)):
        return
    commonest = Counter(found.display_name for _, found in told).most_common(1)[0][0]
    paths = [path for path, found in told if found.display_name == commonest]
    found = next(found for _, found in told if found.display_name == commonest)
    raise SourceError(f"{root}: no images found; {_describe_files(paths, found)}")


def refuse_foreign_file(path: Path) -> None:
    """Raise SourceError as ``refuse_foreign`` for a single file; a tar is judged by its first members."""
    if path.name.lower().endswith(".tar"):
        with open_range_file(path) as file:
            members = list(islice((m for m in walk_tar(file, path.name) if not m.reason), 64))
        names = [member.name for member in members if not has_system_part(member.name)]
        told = [(name, found) for name in names if (found := detect_format(name))]
        if told and not any(map(is_image_name, names)):
            raise SourceError(f"{path}: no images found in this tar; {_describe_files([told[0][0]], told[0][1])}")
    elif found := detect_format(path.name, _make_reader(path)):
        raise SourceError(f"{path}: no images found; {_describe_files([path.name], found)}")


def detect_format(path: str, read: Callable[[int], bytes] | None = None) -> _Format | None:
    """Return the foreign format of a file, or None; ``read`` returns its first bytes."""
    name = path.rpartition("/")[2].lower()
    for one in _FORMATS:
        if re.search(one.names, name) and (not one.starts or read is None or read(8).startswith(one.starts)):
            return one
    if "." not in name or "-of-" in name:
        return _FORMATS[0] if read is not None and _is_tfrecord(read(12)) else None
    return None


def _describe_files(paths: Sequence[str], found: _Format) -> str:
    more = f" ({len(paths):,} such)" if len(paths) > 1 else ""
    return f"{paths[0]}{more} is {found.display_name}, which is not supported; {found.remedy}"


def _make_reader(path: Path) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        try:
            with open_regular(path) as file:
                return file.read(size)
        except OSError:
            return b""

    return read


def _is_tfrecord(start: bytes) -> bool:
    """Return whether a file begins with a record length followed by its masked CRC-32C."""
    if len(start) < 12:
        return False
    crc = 0xFFFFFFFF
    for byte in start[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return bool(struct.unpack("<I", start[8:12])[0] == masked)


def _iter_files(root: Path) -> Iterator[str]:
    """Yield files below ``root``, level by level up to the limits, as relative paths."""
    level, num_folders = [""], 0
    for _ in range(_MAX_DEPTH):
        below: list[str] = []
        for folder in level[: max(0, _MAX_FOLDERS - num_folders)]:
            listed = [item for item in list_items(root / folder if folder else root) if not is_system(item.name)]
            yield from (f"{folder}{item.name}" for item in islice((i for i in listed if not i.is_dir), _MAX_FILES))
            below += [f"{folder}{item.name}/" for item in listed if item.is_dir]
        num_folders += len(level)
        level = below


def _refuse_annotations(root: Path, listed: Sequence[FolderItem]) -> None:
    splits = [root / item.name for item in listed if item.is_dir and split_of_word(item.name)]
    for folder in (root, *splits):
        if kind := _detect_annotations(folder):
            raise SourceError(
                f"{folder}: is laid out as {kind}, whose annotations may give an image many classes; choose one class "
                "an image and give them as a table: `labels` FILE"
            )


def _detect_annotations(folder: Path) -> str:
    """Return the detection format (COCO, YOLO, Pascal VOC) that a folder is laid out as; "" for none."""
    listed = list_items(folder)
    folders = {item.name.lower(): folder / item.name for item in listed if item.is_dir}
    if {"jpegimages", "annotations"} <= set(folders):
        return "Pascal VOC"
    if {"images", "labels"} <= set(folders) and _has_only_extension(folders["labels"], ".txt"):
        return "" if _are_lists_of_images(folders["labels"]) else "YOLO"
    here = [item.name for item in listed]
    here += _iter_names(folders["annotations"]) if "annotations" in folders else []
    return "COCO" if any(map(_COCO.match, here)) else ""


def _are_lists_of_images(folder: Path) -> bool:
    """Return whether the texts in a folder list images by path, as DTD's splits do, instead of boxes."""
    texts = [folder / item.name for item in list_items(folder) if item.name.lower().endswith(".txt")]
    lines = [
        read_start(text, 256).partition(b"\n")[0].decode("ascii", "replace").split() for text in texts[:_MAX_FOLDERS]
    ]
    return bool(lines) and all(line and is_image_name(line[0]) for line in lines)


def _has_only_extension(folder: Path, extension: str) -> bool:
    """Return whether a folder and its subfolders hold files with an extension and no images."""
    names = [*_iter_names(folder)]
    return any(name.lower().endswith(extension) for name in names) and not any(map(is_image_name, names))


def _iter_names(folder: Path) -> Iterator[str]:
    for item in islice(list_items(folder), _MAX_FILES):
        if item.is_dir:
            yield from (inner.name for inner in islice(list_items(folder / item.name), _MAX_FILES))
        else:
            yield item.name
