"""Find the damaged samples of a batch after decoding has failed, and name them for the user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from alexstream.core.errors import BadImageError
from alexstream.core.program import program_name
from alexstream.pipeline.errors import OUTCOME_MESSAGES, REFUSED, StreamError, UndecodedError
from alexstream.pipeline.reading.dataset import Dataset
from alexstream.pipeline.sampling.order import PADDING
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.images.stored_sample import open_stored_image

CONTENT_CHANGED = "has changed since it was written (its sha256 differs from the catalog's)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedSample:
    """Describe a sample that cannot be read or decoded: its id, shard, key, and what is wrong with it."""

    sample: int
    shard: str
    key: str
    what: str

    def error(self, data: Dataset) -> StreamError:
        """Return the error that stops the stream at this sample."""
        return StreamError(
            f"{data.folder}: sample {self.key} in {self.shard}.tar {self.what}; restore the shard (all damage is "
            f"listed by: {program_name()} verify), or skip the sample with `on_bad_sample` skip"
        )


def find_damaged(data: Dataset, samples: Iterable[int]) -> list[DamagedSample]:
    """Return those of ``samples`` that cannot be read, whose sha256 is not the catalog's, or that do not decode."""
    digests = load_catalog(data.folder, data.manifest, ("stored_sha256",))["stored_sha256"]
    found = []
    for sample in sorted(set(samples) - {PADDING}):
        what = _diagnose_sample(data, sample, digests[sample])
        if what:
            found.append(locate_damaged(data, sample, what))
    return found


def _diagnose_sample(data: Dataset, sample: int, sha256: str) -> str:
    """Describe what is wrong with a sample; return an empty string if nothing is."""
    try:
        content = data.read_sample_bytes(sample)
        if hashlib.sha256(content).hexdigest() != sha256:
            return CONTENT_CHANGED
        data.check(sample, content)
        if data.manifest.encode.encoding != "raw":
            open_stored_image(content)
    except UndecodedError as error:
        return OUTCOME_MESSAGES[error.outcomes[sample]]
    except BadImageError as error:
        return f"{OUTCOME_MESSAGES[REFUSED]} ({error})"
    return ""


def locate_damaged(data: Dataset, sample: int, what: str) -> DamagedSample:
    """Look up shard and key of a sample that has failed for the reason ``what``."""
    shard = data.manifest.shards[data.shard_N[sample]].name
    return DamagedSample(sample=sample, shard=shard, key=data.read_key(sample), what=what)
