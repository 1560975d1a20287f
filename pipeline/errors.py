"""Exceptions of the pipeline stage.

::

    AlexstreamError
    └── StreamError            the stream cannot be opened or cannot go on: names shard, key and remedy
"""

from sharding.errors import AlexstreamError as AlexstreamError  # the root, for the stages above


class StreamError(AlexstreamError):
    """The stream cannot be opened or cannot go on; the message names shard, key and remedy."""
