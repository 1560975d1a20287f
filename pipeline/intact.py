"""Whether shards and indexes are those of the catalog, as far as it can be known before the stream starts.

Called as a data set is opened, after sizes and digests of the catalogs: of each shard the index is hashed, and three
members' headers are read. Files are read, not mapped: a disk error is an exception then, and not the end of the
process. The rest is for ``cli.py verify``, which reads everything.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StreamError
from sharding.layout import READERS, Manifest, ShardRecord, load_catalog_rows

HEADER_BYTES = 512  # of a tar member, right before its content


def check_shards(folder: Path, manifest: Manifest, offset_N: NDArray[np.int64], size_N: NDArray[np.int64]) -> None:
    """Check every shard of an open catalog; offsets and sizes of all samples, int64 (num_samples,) each.

    Raises StreamError for the first shard whose index is missing or is not the manifest's, or whose tar does not
    have the first, the middle or the last sample where the catalog says; it names shard, key and remedy.
    """
    ends = np.cumsum([shard.num_samples for shard in manifest.shards])

    def check(number: int) -> None:
        shard = manifest.shards[number]
        mine = slice(int(ends[number]) - shard.num_samples, int(ends[number]))
        check_index(folder, shard)
        if shard.num_samples:
            check_members(folder, shard, offset_N[mine], size_N[mine])

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(check, range(len(manifest.shards))))


def check_objects(remote: Path, manifest: Manifest) -> None:
    """Every shard of an object store is there in its size; its sha256 is compared as it comes into the cache.

    Raises StreamError for the first that is not.
    """
    listed = remote.fs.ls(remote.path, detail=True)  # type: ignore[attr-defined]
    sizes = {str(entry["name"]).rpartition("/")[2]: entry["size"] for entry in listed}
    for shard in manifest.shards:
        size = sizes.get(f"{shard.name}.tar")
        if size != shard.num_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise StreamError(
                f"shard {remote / f'{shard.name}.tar'} {found}, but the manifest says {shard.num_bytes} bytes; restore "
                "the shard or shard the source again"
            )


def check_index(folder: Path, shard: ShardRecord) -> None:
    """The index file is the one that the manifest lists."""
    path, remedy = folder / f"{shard.name}.idx", "restore it, or shard the source again"
    if not path.is_file():
        raise StreamError(f"{path} is missing; {remedy}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != shard.index_sha256:
        raise StreamError(f"{path}: sha256 differs from the manifest's, the index does not fit the shard; {remedy}")


def check_members(folder: Path, shard: ShardRecord, offset_N: NDArray[np.int64], size_N: NDArray[np.int64]) -> None:
    """The first, the middle and the last sample of a shard lie where its catalog says, by name and size."""
    tar, last = folder / f"{shard.name}.tar", shard.num_samples - 1
    rows = sorted({0, last // 2, last})
    samples = load_catalog_rows(folder, shard, ("key", "extension"), rows)
    for row, sample in zip(rows, samples, strict=True):
        expected = f"{sample['key']}.{sample['extension']}", int(size_N[row])
        found = member(read_at(tar, HEADER_BYTES, int(offset_N[row]) - HEADER_BYTES))
        if found != expected:
            raise StreamError(
                f"shard {tar}, sample {sample['key']}: the catalog expects {_described(expected)} at byte "
                f"{offset_N[row]}, found {_described(found)}; the shard is damaged or another one's: restore the shard "
                f"or shard the source again (all damage is listed by: cli.py verify --fast {folder})"
            )


def read_at(path: Path, num_bytes: int, offset: int) -> bytes:
    """``num_bytes`` of a file from byte ``offset`` on, fewer at its end.

    Raises StreamError, which names the file, if it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, num_bytes, max(0, offset))
        finally:
            os.close(file)
    except OSError as error:
        remedy = "restore the shard or shard the source again"
        raise StreamError(f"shard {path} cannot be read at byte {offset}: {error.strerror}; {remedy}") from error


def member(header: bytes) -> tuple[str, int] | None:
    """Name and size in bytes from a USTAR header of 512 bytes; None if that is no header or its checksum is wrong."""
    if len(header) != HEADER_BYTES or header[257:262] != b"ustar":
        return None
    try:
        size, checksum = (int(field.strip(b" \0"), 8) for field in (header[124:136], header[148:156]))
    except ValueError:
        return None
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    name, prefix = (field.partition(b"\0")[0].decode("ascii", "replace") for field in (header[:100], header[345:500]))
    return (f"{prefix}/{name}" if prefix else name), size


def _described(found: tuple[str, int] | None) -> str:
    return f"{found[0]} ({found[1]} bytes)" if found else "no file"
