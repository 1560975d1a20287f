"""What a network gets most wrong: collected image by image while a split is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipeline.batch import Batch
from trainer.probabilities import first_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image, by its id, that the network takes for another class: ``said``, with probability ``p_said``.

    ``loss``: of its label, in nats.
    """

    sample: int
    label: int
    said: int
    p_said: float
    loss: float

    @property
    def p_label(self) -> float:
        """The probability of its label."""
        return math.exp(-self.loss)


class Mistakes:
    """The ``count`` images with the largest loss among those whose most probable class is not theirs."""

    def __init__(self, count: int) -> None:
        """None yet."""
        self._count = count
        self._found: list[Mistake] = []

    def add(self, batch: Batch, log_probabilities_NK: torch.Tensor) -> None:
        """Look at a batch without padding; no more than ``count`` images are remembered."""
        loss = -log_probabilities_NK.gather(1, batch.labels_N[:, None])[:, 0]
        classes, probabilities = first_classes(log_probabilities_NK, 1)
        columns = (batch.ids_N, batch.labels_N, classes[:, 0], probabilities[:, 0], loss)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self._found += [
            Mistake(sample=sample, label=label, said=said, p_said=p_said, loss=nats)
            for sample, label, said, p_said, nats in rows
            if said != label
        ]
        self._found = self.worst()

    def worst(self) -> list[Mistake]:
        """Those found, the largest loss first; of equal ones the lower id."""
        return sorted(self._found, key=lambda one: (-one.loss, one.sample))[: self._count]
