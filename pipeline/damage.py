"""Which samples of a shard are no longer what was written: asked once decoding has failed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.dataset import Dataset
from pipeline.errors import StreamError
from pipeline.order import PADDING
from sharding import layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A sample whose bytes have changed: where it lies and what it is called."""

    sample: int
    shard: str
    key: str

    def error(self, data: Dataset) -> StreamError:
        """What to tell the person who trains."""
        return StreamError(
            f"{data.folder}: sample {self.key} in {self.shard}.tar is not what was written there (its sha256 differs "
            "from the catalog's); restore the shard (all damage is listed by: cli.py verify), or pass the sample over "
            "with --on-bad-sample skip"
        )


def damaged(data: Dataset, samples: Iterable[int]) -> list[Damaged]:
    """Those of ``samples`` whose stored bytes do not have the catalog's sha256."""
    rows = layout.load_catalog(data.folder, data.manifest, ("key", "stored_sha256"))
    found = []
    for sample in sorted(set(samples) - {PADDING}):
        if hashlib.sha256(data.stored(sample).tobytes()).hexdigest() != rows["stored_sha256"][sample]:
            shard = data.manifest.shards[data.shard_N[sample]].name
            found.append(Damaged(sample=sample, shard=shard, key=str(rows["key"][sample])))
    return found
