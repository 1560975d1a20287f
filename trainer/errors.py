"""Exceptions of the training stage.

::

    AlexstreamError
    └── TrainError             the run cannot start, continue or be loaded
        ├── CheckpointError    a checkpoint is missing, damaged or belongs to another run
        │   └── CheckpointVersionError  it is intact, but was made by another version of alexstream
        └── LostRanksError     another rank died or does not answer
"""

from alexstream.pipeline.errors import AlexstreamError


class TrainError(AlexstreamError):
    """Raised if a run cannot start or continue; the message says why and what to do."""


class CheckpointError(TrainError):
    """Raised if a checkpoint is missing, damaged, or belongs to other data, classes or recipe."""


class CheckpointVersionError(CheckpointError):
    """Raised if a checkpoint or run folder is intact, but was made by another version of alexstream."""


class LostRanksError(TrainError):
    """Raised if this rank cannot go on because another one died or does not answer."""
