"""Ensembles: load several checkpoints, check that they belong together and to the data, and fit their weights.

The paper averages the predictions of several networks (section 6, table 2). Equal weights are the default;
``fit_weights`` finds the weights with the smallest loss on held-out images, which are then not scored.

Shape legend: M = models (checkpoints), N = images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.core.text import count_of, quote_value
from alexstream.pipeline.batch import DataFacts, ImagePreprocessing
from alexstream.trainer.checkpoint import Checkpoint, load_checkpoint
from alexstream.trainer.errors import CheckpointError
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.model import AlexNet

MAX_EM_STEPS = 10_000
MAX_GAP_NATS = 1e-6  # nats
# Fields of a checkpoint's data that must agree, and what to do if they do not.
_MUST_MATCH = {
    "classes": "average or evaluate only what was trained on the same classes in the same order",
    "augmentation": "it determines the mean and divisor of the network's input; evaluate them separately",
    "train_digest": "the mean image of the training split is subtracted; give the data set that was trained on as "
    "`train`, and another validation split as `val`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Checkpoints trained on the same classes, training split and augmentation; their velocities are dropped."""

    paths: tuple[Path, ...]
    states: tuple[Checkpoint, ...]

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Ensemble:
        """Load checkpoints from files, or from run folders, whose newest is taken.

        Raises CheckpointError if one cannot be read, or if they differ in classes, training split or augmentation.
        """
        states = tuple(replace(load_checkpoint(path), velocity={}) for path in paths)
        for path, state in zip(paths, states, strict=True):
            _require_same(path, state.data, f"{paths[0]} with", states[0].data)
        return cls(paths=tuple(paths), states=states)

    @property
    def augmentation(self) -> str:
        """The name of the augmentation, which determines the mean and the divisor of the input."""
        return str(self.states[0].data.get("augmentation", "paper"))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by label; empty for checkpoints of the first versions."""
        return tuple(self.states[0].data.get("classes", ()))

    def require_preprocessing(self) -> ImagePreprocessing:
        """Return what turns pictures into the input of the networks. Raises CheckpointError if none holds it."""
        found = next((state.preprocessing for state in self.states if state.preprocessing is not None), None)
        if found is None:
            raise CheckpointError(
                f"{self.paths[0]}: does not hold the mean image and the names of its classes, as later versions save "
                "them; give the data set that it was trained on as `train`"
            )
        return found

    @property
    def equal_weights(self) -> tuple[float, ...]:
        """The weights 1/M."""
        return (1.0 / len(self.states),) * len(self.states)

    def require_match(self, facts: DataFacts) -> None:
        """Raise CheckpointError, naming both values, unless the networks were trained on this data."""
        data = {name: getattr(facts, name) for name in _MUST_MATCH}
        _require_same(self.paths[0], self.states[0].data, "this data has", data)

    def build_models(self, device: torch.device) -> list[AlexNet]:
        """Build the networks on ``device``, each with both columns in this process.

        Raises CheckpointError if parameters are not those of a network of their recipe. A network whose output is not
        a number raises it too, when it is run: weights that are finite may be too large to calculate with.
        """
        for path, state in zip(self.paths, self.states, strict=True):
            state.require_network(path)
        models = [AlexNet(state.parameters, Columns(), state.recipe, seed=0).to(device) for state in self.states]
        for path, model in zip(self.paths, models, strict=True):
            model.register_forward_hook(functools.partial(_check_output, path))
        return models


def _check_output(path: Path, _model: Any, _images: Any, logits_NK: torch.Tensor) -> None:
    if not torch.isfinite(logits_NK).all():
        raise CheckpointError(f"{path}: what its network says of an image is not a number; take an older checkpoint")


def _require_same(path: Path, mine: dict[str, Any], whose: str, other: dict[str, Any]) -> None:
    for name, remedy in _MUST_MATCH.items():
        here, there = mine.get(name), other.get(name)
        if name == "classes":
            here, there = _describe_class_difference(list(here or ()), list(there or ()))
        if here != there:
            raise CheckpointError(
                f"{path}: made with {name} = {_format_value(here)}, but {whose} {_format_value(there)}; {remedy}"
            )


def _format_value(value: Any) -> str:
    """Return a digest or a few words of ours as they are, any longer text from outside in short."""
    text = str(value)
    return text if len(text) <= 300 and text.isprintable() else quote_value(text)


def _describe_class_difference(here: list[str], there: list[str]) -> tuple[str, str]:
    """Describe two lists of classes by their lengths and, if these are equal, the first class that differs."""
    if here == there or len(here) != len(there):
        return count_of(len(here), "name"), count_of(len(there), "name")
    i = next(i for i, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
    return (
        f"{count_of(len(here), 'name')} with {quote_value(here[i])} as number {i}",
        f"{count_of(len(there), 'name')} with {quote_value(there[i])} there",
    )


def fit_weights(log_p_MN: NDArray[np.float64]) -> tuple[float, ...]:
    """Fit weights (M,), not negative and of sum 1, that minimize the mean over images of -log Σ weight · p.

    ``log_p_MN``: log-probability of each image's label by each model, in nats. The problem is convex. Expectation
    maximization from equal weights never increases the loss, so the result is at least as good as equal weights on
    these images. It stops within ``MAX_GAP_NATS`` nats of the minimum (by the bound log max gⱼ with g = mean of
    pⱼ / Σ weight · p), or after ``MAX_EM_STEPS``. Deterministic. Raises ValueError for no images.
    """
    if log_p_MN.shape[1] == 0:
        raise ValueError("no images to fit weights on")
    p_MN = np.exp(log_p_MN - log_p_MN.max(axis=0))  # a factor common to all models cancels; this avoids underflow
    weights = np.full(len(p_MN), 1.0 / len(p_MN))
    for _ in range(MAX_EM_STEPS):
        gain = (p_MN / (weights @ p_MN)).mean(axis=1)
        if np.log(gain.max()) <= MAX_GAP_NATS:
            break
        weights = weights * gain
        weights /= weights.sum()
    return tuple(float(weight) for weight in weights)
