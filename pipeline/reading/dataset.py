"""Open a DATASET v1 folder for reading: load the catalog into arrays, check the shards, give access to samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import BadImageError
from alexstream.pipeline.errors import CUT_OFF, REFUSED, UNREADABLE, StreamError, UndecodedError
from alexstream.pipeline.reading.cached_shards import CachedShards, CacheOptions
from alexstream.pipeline.reading.preflight import check_remote_shards, check_shards
from alexstream.pipeline.reading.shards import LazyShards, LocalShards, Shards
from alexstream.sharding.dataset_v1.catalog import load_catalog, load_catalog_shard
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest
from alexstream.sharding.images.stored_sample import STORED_EXTENSIONS, SampleChecker, prepare_png

_ORIGINAL_EXTENSIONS = STORED_EXTENSIONS["keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Hold an open split. A sample's id is its row in the catalog; arrays have one entry per sample.

    ``extension_N``: index of the file name extension in ``STORED_EXTENSIONS["keep"]``, -1 if it is none of them; empty
    for the other encodings, which have one extension each. ``gate`` checks size and header of a sample before it is
    decoded. ``checked_N``: whether the pixels of a sample have been checked by ``prepare_pngs``. ``open_shards`` opens
    the shards once more.
    """

    folder: Path
    manifest: Manifest
    gate: SampleChecker
    extension_N: NDArray[np.int8]
    checked_N: NDArray[np.bool_]
    shard_N: NDArray[np.int64]
    offset_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    shards: Shards
    open_shards: Callable[[], Shards]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.label_N)

    def reopen_shards(self) -> Dataset:
        """Return this split with file descriptors of its own, to be closed apart from those of other readers.

        What was read and checked is not read again. Raises StreamError if a shard is gone or has another size.
        """
        return replace(self, shards=self.open_shards())

    def stored(self, sample: int) -> NDArray[np.uint8]:
        """Read a sample as it is stored: an image file, uint8 (num_bytes,), or raw pixels, uint8 (H, W, 3).

        Raises UndecodedError if it cannot be read, or is not of a kind that this data set stores.
        """
        return self.read_stored_batch(np.array([sample]))[0][0]

    def read_stored_batch(self, ids_N: NDArray[np.int64]) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Read several samples as ``stored`` does; also return the heights and widths of their images, int64 (n, 2)."""
        encode = self.manifest.encode
        shape = (encode.size_px, encode.size_px, 3) if encode.encoding == "raw" else (-1,)
        fds, samples = self.shards.descriptors(self.shard_N[ids_N]), []
        sizes = np.empty((len(ids_N), 2), np.int64)
        for i, (fd, sample) in enumerate(zip(fds.tolist(), ids_N.tolist(), strict=True)):
            try:
                content = self._read(fd, sample)
                sizes[i] = self.check(sample, content)
            except BadImageError as error:
                raise UndecodedError({sample: REFUSED}) from error
            samples.append(np.frombuffer(content, np.uint8).reshape(shape))
        return samples, sizes

    def prepare_pngs(
        self, ids_N: NDArray[np.int64], stored: list[NDArray[np.uint8]], pool: Executor
    ) -> list[NDArray[np.uint8]]:
        """Return a batch that ``read_stored_batch`` has read with its PNGs made safe for decoders that know no limits.

        Their metadata is left out. Each PNG is decompressed once in the life of this object, to refuse pixels behind
        its last row, which libpng would decompress however many there are: later epochs read the same file. Raises
        UndecodedError with the first such sample.
        """
        if not len(self.extension_N):
            return stored
        prepared, is_png_N = list(stored), self.extension_N[ids_N] == _ORIGINAL_EXTENSIONS.index("png")
        rows = np.flatnonzero(is_png_N).tolist()
        contents = pool.map(self._prepare_png, ids_N[rows].tolist(), [stored[row].tobytes() for row in rows])
        for row, content in zip(rows, contents, strict=True):
            prepared[row] = np.frombuffer(content, np.uint8)
        return prepared

    def _prepare_png(self, sample: int, content: bytes) -> bytes:
        try:
            prepared = prepare_png(content, is_checked=bool(self.checked_N[sample]))
        except BadImageError as error:
            raise UndecodedError({sample: REFUSED}) from error
        self.checked_N[sample] = True
        return prepared

    def read_sample_bytes(self, sample: int) -> bytes:
        """Read the bytes of a sample without looking at their content.

        Raises BadImageError if there are more of them than a sample of this data set can have, UndecodedError if they
        cannot be read.
        """
        return self._read(int(self.shards.descriptors(self.shard_N[[sample]])[0]), sample)

    def check(self, sample: int, content: bytes) -> tuple[int, int]:
        """Check the header of a sample's bytes; return height and width.

        Raises BadImageError as ``SampleChecker.check``.
        """
        return self.gate.check(content, self._extension(sample))

    def _extension(self, sample: int) -> str:
        if not len(self.extension_N):
            return STORED_EXTENSIONS[self.manifest.encode.encoding][0]
        index = self.extension_N[sample]
        return _ORIGINAL_EXTENSIONS[index] if index >= 0 else "another"

    def _read(self, fd: int, sample: int) -> bytes:
        size = int(self.size_N[sample])
        self.gate.check_length(size, self._extension(sample))
        try:
            content = os.pread(fd, size, int(self.offset_N[sample]))
        except OSError as error:
            raise UndecodedError({sample: UNREADABLE}) from error
        if len(content) != size:
            raise UndecodedError({sample: CUT_OFF})
        return content

    def read_key(self, sample: int) -> str:
        """Read the sample's key from the catalog of its shard."""
        record = self.manifest.shards[self.shard_N[sample]]
        row = sample - int(np.searchsorted(self.shard_N, self.shard_N[sample]))
        return str(load_catalog_shard(self.folder, record, ("key",))["key"][row])


def open_dataset(
    folder: Path,
    cache_options: CacheOptions | None = None,
    keep_steps: int = 1,
    manifest: Manifest | None = None,
) -> Dataset:
    """Open the split in ``folder``, on this machine or in an object store, and check it.

    Shards of an object store are downloaded through the cache that ``cache_options`` describes; an open shard stays
    open for ``keep_steps`` steps. ``manifest`` is given if it was read already. Raises DatasetError if manifest or
    catalog are missing or do not match their digests, StreamError if a shard is missing or has another size than the
    manifest says, if the catalog contradicts the manifest, or as ``check_shards`` does.
    """
    manifest = load_manifest(folder) if manifest is None else manifest
    names = ("offset", "size", "label", *(("extension",) if manifest.encode.encoding == "keep" else ()))
    columns = load_catalog(folder, manifest, names)
    extension = _index_extensions(columns.pop("extension", np.empty(0, object)))
    counts = [s.num_samples for s in manifest.shards]
    shard = np.repeat(np.arange(len(counts)), counts)
    offset, size, label = columns.values()
    if manifest.encode.encoding == "raw" and (size != 3 * manifest.encode.size_px**2).any():
        raise StreamError(f"{folder}: the catalog has raw samples of the wrong size; shard the source again")
    if (label < 0).any() or (label >= len(manifest.classes)).any():
        raise StreamError(f"{folder}: the catalog has labels outside the list of classes; shard the source again")

    def open_shards() -> Shards:
        if isinstance(folder, Path):
            return LocalShards(folder, manifest.shards)
        return LazyShards(lambda: _open_cached_shards(folder, manifest, cache_options, keep_steps))

    shards = open_shards()
    if isinstance(folder, Path):
        check_shards(folder, manifest, offset, size)
    else:
        check_remote_shards(folder, manifest)
    return Dataset(
        folder=folder,
        manifest=manifest,
        gate=SampleChecker(manifest.encode),
        extension_N=extension,
        checked_N=np.zeros(len(extension), bool),
        shard_N=shard,
        offset_N=offset,
        size_N=size,
        label_N=label,
        shards=shards,
        open_shards=open_shards,
    )


def _index_extensions(extensions_N: NDArray[np.object_]) -> NDArray[np.int8]:
    numbers = np.full(len(extensions_N), -1, np.int8)
    for number, extension in enumerate(_ORIGINAL_EXTENSIONS):
        numbers[extensions_N == extension] = number
    return numbers


def _open_cached_shards(
    remote: Path, manifest: Manifest, cache_options: CacheOptions | None, keep_steps: int
) -> CachedShards:
    if cache_options is None:
        raise StreamError(f"{remote} lies in an object store: its shards need a cache; give `cache` and `cache_bytes`")
    return CachedShards(remote, manifest.digest, manifest.shards, cache_options, keep_steps)
