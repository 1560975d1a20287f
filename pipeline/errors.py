"""Exceptions of the pipeline stage.

::

    AlexstreamError
    └── StreamError            the stream cannot be opened or cannot go on: names shard, key and remedy
    UndecodedError             within the stage: which samples of a batch gave no image
"""

from collections.abc import Mapping

from sharding.errors import AlexstreamError as AlexstreamError  # the root, for the stages above


class StreamError(AlexstreamError):
    """The stream cannot be opened or cannot go on; the message names shard, key and remedy."""


# What becomes of a sample; the numbers are those of fused.c.
OUTCOMES = (
    "is intact",
    "cannot be read from its disk",
    "reaches beyond the end of its shard",
    "does not decode",
    "has another size than the data set's",
    "found no memory to decode into",
)
UNREADABLE, CUT_OFF = 1, 2


class UndecodedError(RuntimeError):
    """Samples that gave no image: sample id → index into ``OUTCOMES``. The loader makes a StreamError of it."""

    def __init__(self, outcomes: Mapping[int, int]) -> None:
        """Remember them."""
        super().__init__(f"samples {sorted(outcomes)} gave no image")
        self.outcomes = dict(outcomes)
