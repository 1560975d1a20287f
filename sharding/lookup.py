"""Single samples of a data set, by key or number: what they are called and what they look like.

For people who look into a data set or at what a network makes of it; training reads shards in batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding import layout
from sharding.errors import DatasetError
from sharding.image import stored_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A split's catalog as arrays with one entry a sample, in the order of sample ids."""

    folder: Path
    manifest: layout.Manifest
    columns: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, folder: Path) -> Lookup:
        """Read the catalog of a split. Raises DatasetError if it is missing or does not match its digests."""
        manifest = layout.load_manifest(folder)
        names = ("key", "extension", "offset", "size", "label")
        return cls(folder=folder, manifest=manifest, columns=layout.load_catalog(folder, manifest, names))

    @property
    def keys(self) -> NDArray[Any]:
        """Keys by sample id, text."""
        return self.columns["key"]

    def label(self, sample: int) -> int:
        """A sample's label."""
        return int(self.columns["label"][sample])

    def find(self, key: str) -> int | None:
        """The id of the sample with this key, if there is one."""
        found = np.flatnonzero(self.keys == key)
        return int(found[0]) if len(found) else None

    def pixels(self, sample: int) -> NDArray[np.uint8]:
        """The standard view of a sample, uint8 R, G, B (S, S, 3).

        Raises DatasetError if its shard cannot be read, BadImageError if it no longer decodes.
        """
        ends = np.cumsum([shard.num_samples for shard in self.manifest.shards])
        shard = self.manifest.shards[np.searchsorted(ends, sample, "right")]
        tar = self.folder / f"{shard.name}.tar"
        try:
            if tar.stat().st_size != shard.num_bytes:
                raise DatasetError(f"{tar}: not of the manifest's size; restore it, or shard again")
            with tar.open("rb") as file:
                file.seek(int(self.columns["offset"][sample]))
                content = file.read(int(self.columns["size"][sample]))
        except OSError as error:
            raise DatasetError(f"{tar} cannot be read: {error.strerror}; restore it, or shard again") from error
        return stored_pixels(content, str(self.columns["extension"][sample]), self.manifest.encode)


def class_names(manifest: layout.Manifest) -> tuple[str, ...]:
    """What the classes are called, by label: their names in words where the data set knows them, else their ids."""
    return tuple(manifest.class_names.get(wnid, wnid) for wnid in manifest.classes)
