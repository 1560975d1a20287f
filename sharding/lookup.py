"""Look up single samples of a data set by key or number: their catalog entries and pixels.

For people who inspect a data set or a network's predictions; training reads shards in batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import BadImageError, DatasetError
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.layout import shard_paths
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest
from alexstream.sharding.images.decode import decode_sample
from alexstream.sharding.images.stored_sample import SampleChecker


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLookup:
    """A split's catalog as arrays with one entry per sample, in the order of sample ids."""

    folder: Path
    manifest: Manifest
    columns: dict[str, NDArray[Any]]

    @classmethod
    def from_folder(cls, folder: Path) -> SampleLookup:
        """Load the catalog of a split. Raises DatasetError if it is missing or does not match its digests."""
        manifest = load_manifest(folder)
        names = ("key", "extension", "offset", "size", "label")
        return cls(folder=folder, manifest=manifest, columns=load_catalog(folder, manifest, names))

    @property
    def keys(self) -> NDArray[Any]:
        """Keys by sample id, object array of str."""
        return self.columns["key"]

    def label(self, sample: int) -> int:
        """Return the label of a sample."""
        return int(self.columns["label"][sample])

    def find(self, key: str) -> int | None:
        """Return the id of the sample with this key; None if there is none."""
        found = np.flatnonzero(self.keys == key)
        return int(found[0]) if len(found) else None

    def pixels(self, sample: int) -> NDArray[np.uint8]:
        """Return the standard view of a sample, uint8 R, G, B (S, S, 3).

        Raises DatasetError if its shard cannot be read, BadImageError if the sample does not decode or is not of the
        recipe.
        """
        ends = np.cumsum([shard.num_samples for shard in self.manifest.shards])
        shard = self.manifest.shards[np.searchsorted(ends, sample, "right")]
        tar, extension = shard_paths(self.folder, shard.name).tar, str(self.columns["extension"][sample])
        try:
            return decode_sample(self._read(tar, shard.num_bytes, sample), extension, self.manifest.encode)
        except BadImageError as error:
            what = f"{tar}: sample {self.keys[sample]} does not decode ({error}); restore the shard, or shard again"
            raise BadImageError(error.reason, what) from error

    def _read(self, tar: Path, num_bytes: int, sample: int) -> bytes:
        """Read the bytes of a sample, if their number is plausible for the recipe."""
        size = int(self.columns["size"][sample])
        SampleChecker(self.manifest.encode).check_length(size, str(self.columns["extension"][sample]))
        try:
            if tar.stat().st_size != num_bytes:
                raise DatasetError(f"{tar}: not of the manifest's size; restore it, or shard again")
            with tar.open("rb") as file:
                file.seek(int(self.columns["offset"][sample]))
                return file.read(size)
        except OSError as error:
            raise DatasetError(f"{tar} cannot be read: {error.strerror}; restore it, or shard again") from error


def list_class_names(manifest: Manifest) -> tuple[str, ...]:
    """Return the class names by label: in words where the data set has them, else the class ids."""
    return tuple(manifest.class_names.get(wnid, wnid) for wnid in manifest.classes)
