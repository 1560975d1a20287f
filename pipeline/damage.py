"""Which samples of a shard are no longer what was written: asked once decoding has failed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.dataset import Dataset
from pipeline.errors import OUTCOMES, StreamError, UndecodedError
from pipeline.order import PADDING
from sharding import layout

CHANGED = "is not what was written there (its sha256 differs from the catalog's)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A sample that gives no image: where it lies, what it is called, what is wrong with it."""

    sample: int
    shard: str
    key: str
    what: str

    def error(self, data: Dataset) -> StreamError:
        """What to tell the person who trains."""
        return StreamError(
            f"{data.folder}: sample {self.key} in {self.shard}.tar {self.what}; restore the shard (all damage is "
            "listed by: cli.py verify), or pass the sample over with --on-bad-sample skip"
        )


def damaged(data: Dataset, samples: Iterable[int]) -> list[Damaged]:
    """Those of ``samples`` whose stored bytes cannot be read or do not have the catalog's sha256."""
    digests = layout.load_catalog(data.folder, data.manifest, ("stored_sha256",))["stored_sha256"]
    found = []
    for sample in sorted(set(samples) - {PADDING}):
        try:
            if hashlib.sha256(data.stored(sample).tobytes()).hexdigest() != digests[sample]:
                found.append(named(data, sample, CHANGED))
        except UndecodedError as error:
            found.append(named(data, sample, OUTCOMES[error.outcomes[sample]]))
    return found


def named(data: Dataset, sample: int, what: str) -> Damaged:
    """The sample with its shard and key, and what is wrong with it."""
    shard = data.manifest.shards[data.shard_N[sample]].name
    return Damaged(sample=sample, shard=shard, key=data.key_of(sample), what=what)
