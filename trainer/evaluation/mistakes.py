"""Worst mistakes of a network, collected batch by batch while a split is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alexstream.pipeline.batch import Batch
from alexstream.trainer.evaluation.scoring import select_top_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image, by its sample id, whose most probable class (``said``, with probability ``p_said``) is not its label.

    ``loss`` is that of its label, in nats.
    """

    sample: int
    label: int
    predicted: int
    p_predicted: float
    loss: float

    @property
    def p_label(self) -> float:
        """The predicted probability of its label."""
        return math.exp(-self.loss)


class WorstMistakes:
    """Collects the ``count`` misclassified images with the largest loss."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._found: list[Mistake] = []

    def add(self, batch: Batch, log_probabilities_NK: torch.Tensor) -> None:
        """Add a batch without padding and its log-probabilities, float64 (N, K)."""
        loss = -log_probabilities_NK.gather(1, batch.labels_N[:, None])[:, 0]
        classes, probabilities = select_top_classes(log_probabilities_NK, 1)
        columns = (batch.ids_N, batch.labels_N, classes[:, 0], probabilities[:, 0], loss)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self._found += [
            Mistake(sample=sample, label=label, predicted=said, p_predicted=p_said, loss=nats)
            for sample, label, said, p_said, nats in rows
            if said != label
        ]
        self._found = self.worst()

    def worst(self) -> list[Mistake]:
        """Return the mistakes found, by descending loss, then by id."""
        return sorted(self._found, key=lambda one: (-one.loss, one.sample))[: self._count]
