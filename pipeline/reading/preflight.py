"""Check index hashes and three tar headers per shard against the catalog, before streaming.

Called when a data set is opened, after sizes and digests of the catalogs were checked. Files are read, not mapped, so
that a disk error raises an exception and does not kill the process. ``cli.py verify`` reads and checks everything.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexstream.core.object_store import list_store_folder
from alexstream.core.program import program_name
from alexstream.core.storage import read_small
from alexstream.pipeline.errors import StreamError
from alexstream.sharding.dataset_v1.catalog import READER_THREADS, load_catalog_rows
from alexstream.sharding.dataset_v1.layout import MAX_INDEX_BYTES, shard_paths
from alexstream.sharding.dataset_v1.manifest import Manifest, ShardRecord

HEADER_BYTES = 512  # of a tar member, directly before its content


def check_shards(folder: Path, manifest: Manifest, offset_N: NDArray[np.int64], size_N: NDArray[np.int64]) -> None:
    """Check every shard against the catalog: ``offset_N`` and ``size_N`` of all samples, int64 (num_samples,) each.

    Raises StreamError for the first shard whose index is missing or has another sha256 than the manifest says, or
    whose tar does not have the first, the middle or the last sample where the catalog says.
    """
    ends = np.cumsum([shard.num_samples for shard in manifest.shards])

    def check(number: int) -> None:
        shard = manifest.shards[number]
        mine = slice(int(ends[number]) - shard.num_samples, int(ends[number]))
        check_index(folder, shard)
        if shard.num_samples:
            check_members(folder, shard, offset_N[mine], size_N[mine])

    with ThreadPoolExecutor(READER_THREADS) as pool:
        list(pool.map(check, range(len(manifest.shards))))


def check_remote_shards(remote: Path, manifest: Manifest) -> None:
    """Check that every shard of an object store exists and has the manifest's size.

    The sha256 is compared later, as a shard is downloaded into the cache. Raises StreamError for the first shard that
    is missing or has another size.
    """
    listed = list_store_folder(remote.fs, remote.path)  # type: ignore[attr-defined]
    sizes = {one.name: one.num_bytes for one in listed}
    for shard in manifest.shards:
        tar = shard_paths(remote, shard.name).tar
        size = sizes.get(tar.name)
        if size != shard.num_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise StreamError(
                f"shard {tar} {found}, but the manifest says {shard.num_bytes} bytes; restore "
                "the shard or shard the source again"
            )


def check_index(folder: Path, shard: ShardRecord) -> None:
    """Check that a shard's index file has the manifest's sha256. Raises StreamError if not, or if it is missing."""
    path, remedy = shard_paths(folder, shard.name).index, "restore it, or shard the source again"
    if not path.is_file():
        raise StreamError(f"{path} is missing; {remedy}")
    try:
        index = read_small(path, MAX_INDEX_BYTES * (1 + shard.num_samples))
    except OSError as error:
        raise StreamError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from error
    if hashlib.sha256(index).hexdigest() != shard.index_sha256:
        raise StreamError(f"{path}: sha256 differs from the manifest's, the index does not fit the shard; {remedy}")


def check_members(folder: Path, shard: ShardRecord, offset_N: NDArray[np.int64], size_N: NDArray[np.int64]) -> None:
    """Check name and size in the tar headers of a shard's first, middle and last sample. Raises StreamError."""
    tar, last = shard_paths(folder, shard.name).tar, shard.num_samples - 1
    rows = sorted({0, last // 2, last})
    samples = load_catalog_rows(folder, shard, ("key", "extension"), rows)
    for row, sample in zip(rows, samples, strict=True):
        expected = f"{sample['key']}.{sample['extension']}", int(size_N[row])
        found = parse_tar_header(read_at(tar, HEADER_BYTES, int(offset_N[row]) - HEADER_BYTES))
        if found != expected:
            raise StreamError(
                f"shard {tar}, sample {sample['key']}: the catalog expects {_describe_member(expected)} at byte "
                f"{offset_N[row]}, found {_describe_member(found)}; the shard is damaged or another one's: restore "
                f"the shard or shard the source again (all damage is listed by: {program_name()} verify --fast "
                f"{folder})"
            )


def read_at(path: Path, num_bytes: int, offset: int) -> bytes:
    """Read ``num_bytes`` of a file from byte ``offset`` on, fewer at its end.

    Raises StreamError if the file cannot be read.
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


def parse_tar_header(header: bytes) -> tuple[str, int] | None:
    """Parse a USTAR header of 512 bytes: return name and size in bytes, or None if it is invalid."""
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


def _describe_member(found: tuple[str, int] | None) -> str:
    return f"{found[0]} ({found[1]} bytes)" if found else "no file"
