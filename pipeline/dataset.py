"""Opens a DATASET v1 folder for reading: catalog as arrays, shards as open files, everything checked first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CUT_OFF, UNREADABLE, StreamError, UndecodedError
from pipeline.intact import check_objects, check_shards
from pipeline.remote.staging import StagedShards, Staging
from pipeline.shards import Deferred, LocalShards, Shards
from sharding import layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """An open split. Sample id = row of the catalog; arrays have one entry per sample."""

    folder: Path
    manifest: layout.Manifest
    shard_N: NDArray[np.int64]
    offset_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    shards: Shards

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.label_N)

    def stored(self, sample: int) -> NDArray[np.uint8]:
        """What is stored of a sample: an image file, uint8 (bytes,), or raw pixels, uint8 (H, W, 3).

        Raises UndecodedError if the disk does not give it.
        """
        return self.stored_of(np.array([sample]))[0]

    def stored_of(self, ids_N: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """``stored`` of several samples."""
        fds = self.shards.descriptors(self.shard_N[ids_N])
        places = zip(fds, self.size_N[ids_N], self.offset_N[ids_N], ids_N, strict=True)
        return [self._read(int(fd), int(size), int(offset), int(i)) for fd, size, offset, i in places]

    def _read(self, fd: int, size: int, offset: int, sample: int) -> NDArray[np.uint8]:
        try:
            content = os.pread(fd, size, offset)
        except OSError as error:
            raise UndecodedError({sample: UNREADABLE}) from error
        if len(content) != size:
            raise UndecodedError({sample: CUT_OFF})
        size_px = self.manifest.encode.size_px
        pixels = np.frombuffer(content, np.uint8)
        return pixels.reshape(size_px, size_px, 3) if self.manifest.encode.encoding == "raw" else pixels

    def key_of(self, sample: int) -> str:
        """The sample's key, read from the catalog of its shard."""
        record = self.manifest.shards[self.shard_N[sample]]
        row = sample - int(np.searchsorted(self.shard_N, self.shard_N[sample]))
        return str(layout.load_catalog_shard(self.folder, record, ("key",))["key"][row])


def open_dataset(folder: Path, staging: Staging | None = None, keep_steps: int = 1) -> Dataset:
    """Open the split in ``folder``, here or in an object store, whose shards then come through ``staging``'s cache.

    Raises DatasetError if manifest or catalog are missing or do not match their digests, StreamError if a
    shard is missing, has another size than the manifest says, or the catalog cannot be of this data set, and as
    ``check_shards`` does.
    """
    manifest = layout.load_manifest(folder)
    columns = layout.load_catalog(folder, manifest, ("offset", "size", "label"))
    counts = [s.num_samples for s in manifest.shards]
    shard = np.repeat(np.arange(len(counts)), counts)
    offset, size, label = columns.values()
    if manifest.encode.encoding == "raw" and (size != 3 * manifest.encode.size_px**2).any():
        raise StreamError(f"{folder}: the catalog has raw samples of another size; shard the source again")
    if (label < 0).any() or (label >= len(manifest.classes)).any():
        raise StreamError(f"{folder}: the catalog has labels that are no classes; shard the source again")
    if isinstance(folder, Path):
        shards: Shards = LocalShards(folder, manifest.shards)
        check_shards(folder, manifest, offset, size)
    else:
        check_objects(folder, manifest)
        shards = Deferred(lambda: _staged(folder, manifest, staging, keep_steps))
    return Dataset(
        folder=folder,
        manifest=manifest,
        shard_N=shard,
        offset_N=offset,
        size_N=size,
        label_N=label,
        shards=shards,
    )


def _staged(remote: Path, manifest: layout.Manifest, staging: Staging | None, keep_steps: int) -> StagedShards:
    if staging is None:
        raise StreamError(f"{remote} lies in an object store: its shards need a cache; give --cache and --cache-size")
    return StagedShards(remote, manifest.digest, manifest.shards, staging, keep_steps)
