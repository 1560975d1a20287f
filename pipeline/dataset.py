"""Opens a DATASET v1 folder for reading: catalog as arrays, shards as memory maps, everything checked first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StreamError
from pipeline.intact import check_shards
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
    tars: tuple[NDArray[np.uint8], ...]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.label_N)

    def stored(self, sample: int) -> NDArray[np.uint8]:
        """What is stored of a sample: a JPEG, uint8 (bytes,), or raw pixels, uint8 (H, W, 3).

        A view of the mapped shard, nothing is copied.
        """
        start = self.offset_N[sample]
        content: NDArray[np.uint8] = self.tars[self.shard_N[sample]][start : start + self.size_N[sample]]
        size_px = self.manifest.encode.size_px
        return content.reshape(size_px, size_px, 3) if self.manifest.encode.encoding == "raw" else content


def open_dataset(folder: Path) -> Dataset:
    """Open the split in ``folder``.

    Raises DatasetError if manifest or catalog are missing or do not match their digests, StreamError if a
    shard is missing, has another size than the manifest says, or the catalog points outside it, and as
    ``check_shards`` does.
    """
    manifest = layout.load_manifest(folder)
    if manifest.encode.encoding == "keep":
        raise StreamError(
            f"{folder}: stored with --encode keep; the training stream reads jpeg and raw shards: "
            "shard the source again with --encode jpeg into another folder"
        )
    columns = layout.load_catalog(folder, manifest, ("offset", "size", "label"))
    counts = [s.num_samples for s in manifest.shards]
    shard = np.repeat(np.arange(len(counts)), counts)
    ends = np.array([s.num_bytes for s in manifest.shards])[shard]
    if (columns["offset"] + columns["size"] > ends).any() or (columns["offset"] < 0).any():
        raise StreamError(f"{folder}: the catalog points outside the shards; shard the source again")
    tars = tuple(_map(folder / f"{s.name}.tar", s.num_bytes) for s in manifest.shards)
    check_shards(folder, manifest, columns["offset"], columns["size"])
    return Dataset(
        folder=folder,
        manifest=manifest,
        shard_N=shard,
        offset_N=columns["offset"],
        size_N=columns["size"],
        label_N=columns["label"],
        tars=tars,
    )


def _map(tar: Path, num_bytes: int) -> NDArray[np.uint8]:
    """Map a shard; its size is checked first, since reading past the end of a mapping kills the process."""
    size = tar.stat().st_size if tar.is_file() else -1
    if size != num_bytes:
        found = "is missing" if size < 0 else f"has {size} bytes"
        raise StreamError(
            f"shard {tar} {found}, but the manifest says {num_bytes} bytes; restore the shard or shard the source again"
        )
    return np.memmap(tar, np.uint8, "r")
