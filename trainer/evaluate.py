"""Validation: loss, top-1 and top-5 over a stream of batches, of one network or of several, whole or by class.

``evaluate`` scores the network in training after each epoch; ``assess`` is all that ``cli.py evaluate`` does. One view
or ten, one network or several: what is scored is always the arithmetic mean of the softmax probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import Batch, DataFacts, Part, TrainingData, no_exchange
from trainer.choice import chosen
from trainer.ensemble import Ensemble, fit_weights
from trainer.errors import TrainError
from trainer.probabilities import Model, credit, log_probabilities, mixed
from trainer.progress import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean cross-entropy in nats, and the shares of images whose label is the first or among the first five.

    Labels that tie share the places they tie for (``probabilities.credit``).
    """

    num_images: int
    loss: float
    top1: float
    top5: float

    def line(self) -> str:
        """``validation loss 1.2345  top-1 56.78 %  top-5 90.12 %  (1600 images)``."""
        return (
            f"validation loss {self.loss:.4f}  top-1 {100 * self.top1:.2f} %  top-5 {100 * self.top5:.2f} %  "
            f"({self.num_images} images)"
        )


class Tally:
    """Sums by class: images, loss, top-1 and top-5 credit; float64 (4, K)."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._sums_4K = np.zeros((4, 0))

    def add(self, log_probabilities_NK: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Count images with these labels; none may be padding."""
        loss = -log_probabilities_NK.gather(1, labels_N[:, None])[:, 0]
        first, among = (credit(log_probabilities_NK, labels_N, k) for k in (1, 5))
        rows = torch.stack([torch.ones_like(loss), loss, first, among]).cpu().numpy()
        labels, num_classes = labels_N.cpu().numpy(), log_probabilities_NK.shape[1]
        sums = np.array([np.bincount(labels, row, num_classes) for row in rows])
        self._sums_4K = sums + (self._sums_4K if self._sums_4K.size else 0.0)

    def score(self) -> Score:
        """Of all images. Raises ValueError for none."""
        return _score(self._sums_4K.sum(axis=1))

    def by_class(self) -> tuple[Score | None, ...]:
        """Of each class's images, by label; None where there are none."""
        return tuple(_score(sums) if sums[0] else None for sums in self._sums_4K.T)


def _score(sums_4: NDArray[np.float64]) -> Score:
    count, loss, top1, top5 = (float(value) for value in sums_4)
    if not count:
        raise ValueError("no images to evaluate")
    return Score(num_images=int(count), loss=loss / count, top1=top1 / count, top5=top5 / count)


def evaluate(model: Model, batches: Iterable[Batch]) -> Score:
    """Score a model over all batches, padding entries (label -1) left out. Raises ValueError for no images."""
    tally = Tally()
    for batch in batches:
        real = batch.labels_N >= 0
        tally.add(log_probabilities([model], batch.images_NCHW)[0][real], batch.labels_N[real])
    return tally.score()


def evaluate_checkpoint(data: TrainingData, path: Path, device: torch.device) -> Score:
    """Score a checkpoint (a file, or a run folder's newest) on ``data``'s validation split: one view, one device.

    Raises CheckpointError if it cannot be read or was trained on other classes or data, TrainError if ``data`` has no
    validation split.
    """
    return assess(data, Ensemble.load([path]), device, quiet=True).score


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How weights were fitted: on how many images, and the loss there with equal weights and with those found."""

    num_images: int
    loss_equal: float
    loss_fitted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What an evaluation found.

    ``by_class`` is by label; ``equal``: the same images with equal weights, where weights were fitted.
    """

    paths: tuple[Path, ...]
    steps: tuple[int, ...]
    weights: tuple[float, ...]
    views: int
    score: Score
    by_class: tuple[Score | None, ...]
    fit: Fit | None = None
    equal: Score | None = None

    def lines(self, classes: Sequence[str] = ()) -> str:
        """For a person: how it was made where that is not plain, a line a class if they are named, the score last."""
        rows = []
        if len(self.paths) > 1:
            parts = zip(self.weights, self.paths, self.steps, strict=True)
            rows += [f"weight {weight:.4f}  {path} at step {step}" for weight, path, step in parts]
        if self.fit is not None and self.equal is not None:
            rows += [
                f"weights fitted on {self.fit.num_images} other images: loss {self.fit.loss_fitted:.4f} there "
                f"({self.fit.loss_equal:.4f} with equal weights)",
                f"equal weights: {self.equal.line()}",
            ]
        rows += [_class_row(name, score) for name, score in zip(classes, self.by_class, strict=False)]
        return "\n".join([*rows, self.score.line() + (", mean of ten views" if self.views == 10 else "")])

    def json(self, facts: DataFacts, *, per_class: bool = False) -> dict[str, Any]:
        """The same as JSON values, losses in nats, shares as fractions of 1."""
        parts = zip(self.paths, self.steps, self.weights, strict=True)
        found = {
            **asdict(self.score),
            "views": self.views,
            "checkpoints": [{"path": str(path), "step": step, "weight": weight} for path, step, weight in parts],
            "val_digest": facts.val_digest,
        }
        if self.fit is not None and self.equal is not None:
            found |= {"fit": asdict(self.fit), "equal_weights": asdict(self.equal)}
        if per_class:
            scores = zip(facts.classes, self.by_class, strict=True)
            empty = {"num_images": 0, "loss": None, "top1": None, "top5": None}
            found["classes"] = [{"class": name, **(asdict(score) if score else empty)} for name, score in scores]
        return found


def _class_row(name: str, score: Score | None) -> str:
    if score is None:
        return f"{name}: no images"
    return (
        f"{name}: loss {score.loss:.4f}  top-1 {100 * score.top1:.2f} %  top-5 {100 * score.top5:.2f} %  "
        f"({score.num_images} images)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOn:
    """Where weights are fitted: a share of the validation split, which is then not scored, or a split of its own."""

    share: float = 0.0
    data: TrainingData | None = None


class Listener(Protocol):
    """Who wants to know what is said of each image: ``predictions.Predictions``, ``mistakes.Mistakes``."""

    def add(self, batch: Batch, log_probabilities_NK: torch.Tensor) -> None:
        """Hear what is said of a batch without padding."""
        ...


def assess(
    data: TrainingData,
    ensemble: Ensemble,
    device: torch.device,
    *,
    views: int = 1,
    fit_on: FitOn | None = None,
    predictions: Listener | None = None,
    quiet: bool = False,
) -> Assessment:
    """Score the mean of the checkpoints' probabilities over ``views`` of each image of the validation split.

    ``predictions`` hears what is said of each image. Raises CheckpointError if the checkpoints do not fit the data,
    TrainError if there is no validation split, or if there is nothing to fit weights of or on.
    """
    facts = data.facts()
    ensemble.require(facts)
    if facts.num_val == 0:
        raise TrainError("the data set has no validation split; name one with --val")
    speakers = _Speakers(models=ensemble.models(device), device=device, views=views, quiet=quiet)
    weights, fit, kept_back = ensemble.equal_weights, None, frozenset[int]()
    if fit_on is not None:
        kept_back = _kept_back(fit_on, facts)
        weights, fit = _fitted(speakers, ensemble, fit_on.data or data, kept_back)
    tally, equal = Tally(), Tally()
    for batch, each in speakers.of(data, "evaluate", without=kept_back):
        together = mixed(each, weights)
        tally.add(together, batch.labels_N)
        if fit is not None:
            equal.add(mixed(each, ensemble.equal_weights), batch.labels_N)
        if predictions is not None:
            predictions.add(batch, together)
    return Assessment(
        paths=ensemble.paths,
        steps=tuple(state.step for state in ensemble.states),
        weights=weights,
        views=views,
        score=tally.score(),
        by_class=tally.by_class(),
        fit=fit,
        equal=equal.score() if fit is not None else None,
    )


def _kept_back(fit_on: FitOn, facts: DataFacts) -> frozenset[int]:
    """The images of the validation split that weights are fitted on, by id; at least one is left to score.

    Raises TrainError where images would be fitted on that are scored too, or that the networks were trained on.
    """
    share, num_images = fit_on.share, facts.num_val
    if fit_on.data is not None:
        digest = fit_on.data.facts().val_digest
        known = {facts.val_digest: "the one that is scored", facts.train_digest: "the one that was trained on"}
        if digest in known:
            raise TrainError(f"--fit-weights: this split is {known[digest]}; give another, or a share such as 0.5")
        return frozenset()
    count = round(share * num_images)
    if not 0 < count < num_images:
        raise TrainError(
            f"--fit-weights: received {share:g}, which is {count} of {num_images} validation images; "
            "expected a share that leaves some to fit on and some to score"
        )
    return frozenset(chosen(num_images, count, "fit"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speakers:
    """The networks on their device, and how they are asked."""

    models: Sequence[Model]
    device: torch.device
    views: int
    quiet: bool

    def of(
        self,
        data: TrainingData,
        what: str,
        *,
        only: frozenset[int] = frozenset(),
        without: frozenset[int] = frozenset(),
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """The validation split, and what each network says of it: log-probabilities (M, N, K).

        ``only`` these ids, if any, and ``without`` those; what is left out, padding too, costs no network's time.
        """
        stream = data.validation(Part(), no_exchange, self.device, self.views)
        for batch in shown(stream, data.facts().num_val, what, quiet=self.quiet):
            ids = batch.ids_N.tolist()
            rows = [n for n, i in enumerate(ids) if i >= 0 and i not in without and (not only or i in only)]
            if len(rows) == len(ids):
                yield batch, log_probabilities(self.models, batch.images_NCHW)
            elif rows:
                part = Batch(
                    images_NCHW=batch.images_NCHW[rows], labels_N=batch.labels_N[rows], ids_N=batch.ids_N[rows]
                )
                yield part, log_probabilities(self.models, part.images_NCHW)


def _fitted(
    speakers: _Speakers, ensemble: Ensemble, data: TrainingData, only: frozenset[int]
) -> tuple[tuple[float, ...], Fit]:
    """Weights with the least loss on ``data``'s validation split, or on ``only`` these ids of it."""
    facts = data.facts()
    ensemble.require(facts)
    if len(ensemble.states) == 1:
        raise TrainError("--fit-weights: one checkpoint has no weights; give --checkpoint several times")
    if facts.num_val == 0:
        raise TrainError("--fit-weights: there are no images to fit on; give a share, or a split that has some")
    parts = [
        each.take_along_dim(batch.labels_N[None, :, None], dim=2)[:, :, 0].cpu().numpy()
        for batch, each in speakers.of(data, "fit", only=only)
    ]
    log_p_MN = np.concatenate(parts, axis=1)
    for path, log_p_N in zip(ensemble.paths, log_p_MN, strict=True):
        if not np.isfinite(log_p_N).all():
            raise TrainError(f"--fit-weights: {path} gives labels a probability that is no number; leave it out")
    equal, weights = ensemble.equal_weights, fit_weights(log_p_MN)
    losses = (_loss(log_p_MN, equal), _loss(log_p_MN, weights))
    return weights, Fit(num_images=log_p_MN.shape[1], loss_equal=losses[0], loss_fitted=losses[1])


def _loss(log_p_MN: NDArray[np.float64], weights: Sequence[float]) -> float:
    return float(-mixed(torch.from_numpy(log_p_MN)[:, :, None], weights).mean())
