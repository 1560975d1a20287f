"""Several checkpoints as one predictor: read, compared with each other and with the data; how much each counts.

The paper averages the predictions of several networks (section 6, table 2). Equal weights are the default;
``fit_weights`` finds those with the least loss on images that are then not scored.

Shape legend: M = models (checkpoints), N = images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import DataFacts
from trainer.checkpoint import Checkpoint, load
from trainer.columns import Columns
from trainer.errors import CheckpointError
from trainer.model import AlexNet

MAX_STEPS = 10_000
GAP = 1e-6  # nats
# What checkpoints must have in common, and what to do where they have not.
_SHARED = {
    "classes": "average or evaluate only what was trained on the same classes in the same order",
    "augmentation": "its mean and divisor belong to the network; evaluate them apart",
    "train_digest": "the mean image subtracted is that of the training split; give the data set that was trained on "
    "as --data and another validation split as --val",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Checkpoints that saw the same classes, training split and augmentation recipe; without their velocities."""

    paths: tuple[Path, ...]
    states: tuple[Checkpoint, ...]

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Ensemble:
        """Read checkpoints (files, or run folders' newest).

        Raises CheckpointError if one cannot be read, or if two differ in what they must have in common.
        """
        states = tuple(replace(load(path), velocity={}) for path in paths)
        for path, state in zip(paths, states, strict=True):
            _require_same(path, state.data, f"{paths[0]} with", states[0].data)
        return cls(paths=tuple(paths), states=states)

    @property
    def augmentation(self) -> str:
        """The recipe that says what is subtracted from an image and what it is divided by."""
        return str(self.states[0].data["augmentation"])

    @property
    def equal_weights(self) -> tuple[float, ...]:
        """1/M each."""
        return (1.0 / len(self.states),) * len(self.states)

    def require(self, facts: DataFacts) -> None:
        """Raise CheckpointError, naming both values, unless the data is what the networks were trained on."""
        data = {name: getattr(facts, name) for name in _SHARED}
        _require_same(self.paths[0], self.states[0].data, "this data has", data)

    def models(self, device: torch.device) -> list[AlexNet]:
        """The networks, both columns in this process."""
        return [AlexNet(state.parameters, Columns(), state.recipe, seed=0).to(device) for state in self.states]


def _require_same(path: Path, mine: dict[str, Any], whose: str, other: dict[str, Any]) -> None:
    for name, remedy in _SHARED.items():
        here, there = mine.get(name), other.get(name)
        if name == "classes":
            here, there = _told_apart(list(here or ()), list(there or ()))
        if here != there:
            raise CheckpointError(f"{path}: made with {name} = {here}, but {whose} {there}; {remedy}")


def _told_apart(here: list[str], there: list[str]) -> tuple[str, str]:
    """Two lists of classes in a few words: their number, and the first class in which they differ."""
    if here == there or len(here) != len(there):
        return f"{len(here)} names", f"{len(there)} names"
    i = next(i for i, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
    return f"{len(here)} names with {here[i]!r} as number {i}", f"{len(there)} names with {there[i]!r} there"


def fit_weights(log_p_MN: NDArray[np.float64]) -> tuple[float, ...]:
    """Weights, none negative, sum 1, that minimise the mean of -log Σ weight · p; p = each label's probability.

    The problem is convex. Expectation maximisation from equal weights never makes the loss larger, so the result is
    at least as good as equal weights on the images given; it ends within ``GAP`` nats of the least loss there is (the
    bound is log max gⱼ, g = the mean of pⱼ / Σ weight · p), or after ``MAX_STEPS``. The same numbers every time.
    Raises ValueError for no images.
    """
    if log_p_MN.shape[1] == 0:
        raise ValueError("no images to fit weights on")
    p_MN = np.exp(log_p_MN - log_p_MN.max(axis=0))  # a factor common to the models changes nothing
    weights = np.full(len(p_MN), 1.0 / len(p_MN))
    for _ in range(MAX_STEPS):
        gain = (p_MN / (weights @ p_MN)).mean(axis=1)
        if np.log(gain.max()) <= GAP:
            break
        weights = weights * gain
        weights /= weights.sum()
    return tuple(float(weight) for weight in weights)
