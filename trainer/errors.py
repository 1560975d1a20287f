"""Exceptions of the training stage.

::

    AlexstreamError
    └── TrainError             the run cannot start, continue or be loaded
        ├── CheckpointError    a checkpoint is missing, damaged or belongs to another run
        └── LostRanksError     another rank died or does not answer
"""

from pipeline.errors import AlexstreamError


class TrainError(AlexstreamError):
    """The run cannot start or continue; the message says why and what to do."""


class CheckpointError(TrainError):
    """A checkpoint is missing, damaged, or belongs to other data, classes or recipe."""


class LostRanksError(TrainError):
    """This rank cannot go on because another one died or does not answer."""
