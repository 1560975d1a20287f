"""Exceptions of the pipeline stage.

::

    AlexstreamError
    └── StreamError            the stream cannot be opened or cannot continue; the message names shard, key and remedy
    UndecodedError             internal: samples of a batch that could not be read or decoded
"""

from collections.abc import Mapping

from alexstream.core.errors import AlexstreamError as AlexstreamError  # the root, for the stages above


class StreamError(AlexstreamError):
    """Raised if the stream cannot be opened or cannot continue; the message names shard, key and remedy."""


# Outcomes of reading and decoding a sample, to follow "sample KEY in SHARD.tar"; the indexes are those of fused.c.
OUTCOME_MESSAGES = (
    "is intact",
    "cannot be read from disk",
    "reaches beyond the end of its shard",
    "does not decode",
    "has a different size than the data set's images",
    "could not be decoded for lack of memory",
    "is not of a kind that this data set stores",
)
UNREADABLE, CUT_OFF, REFUSED = 1, 2, 6


class UndecodedError(RuntimeError):
    """Raised within the stage for samples that give no image; the loader turns it into a StreamError.

    ``outcomes``: sample id → index into ``OUTCOME_MESSAGES``.
    """

    def __init__(self, outcomes: Mapping[int, int]) -> None:
        super().__init__(f"samples {sorted(outcomes)} could not be read or decoded")
        self.outcomes = dict(outcomes)
