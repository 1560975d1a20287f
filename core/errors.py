"""Exceptions of the sharding stage, and the root of all expected errors.

::

    AlexstreamError            anything a user can cause and mend; the command line prints it as one line
    ├── SourceError            the source folder is missing, empty or not what was expected
    ├── OutputError            the output folder cannot be used
    ├── DatasetError           a DATASET v1 folder is missing, incomplete or contradicts itself
    │   └── DatasetVersionError      it was made by another version of alexstream, and is not damaged
    └── BadImageError          one source file is no usable image (quarantined, never fatal)
"""

from alexstream.core.text import to_one_line


class AlexstreamError(Exception):
    """Root of the errors a user can cause and fix: the message says what, where and what to do next.

    It is one line without control characters, whatever names and texts of libraries it contains.
    """

    def __init__(self, message: str) -> None:
        super().__init__(to_one_line(message))


class SourceError(AlexstreamError):
    """The source folder is missing, empty or not laid out as expected."""


class OutputError(AlexstreamError):
    """The output folder cannot be used for this data set."""


class DatasetError(AlexstreamError):
    """A DATASET v1 folder is missing, incomplete or contradicts itself."""


class DatasetVersionError(DatasetError):
    """A data set was made by another version of alexstream, and is not damaged."""


class BadImageError(AlexstreamError):
    """One source file is not a usable image.

    ``reason`` is a stable code for counting (``empty``, ``not-an-image``, ``corrupt``, ``too-large``,
    ``unsupported-jpeg``, ``unsupported-format``, ``unsupported-mode``, ``colour-profile``, ``unreadable``); the message
    carries the detail.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
