"""Evaluation: loss, top-1 and top-5 of one network or an ensemble over a stream of batches, in all and by class.

``count_results`` scores the network in training after each epoch; ``assess`` does the work of ``cli.py evaluate``.
Scores are always of the arithmetic mean of the softmax probabilities, over views and over networks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.core.progress import progress_bar
from alexstream.core.text import count_of
from alexstream.pipeline.batch import Batch, BatchSlice, DataFacts, TrainingData
from alexstream.trainer.errors import TrainError
from alexstream.trainer.evaluation.ensemble import Ensemble, fit_weights
from alexstream.trainer.evaluation.nearest import choose_by_hash
from alexstream.trainer.evaluation.scoring import (
    Model,
    compute_log_probabilities,
    count_topk_places,
    format_chance,
    mix_models,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean cross-entropy in nats, and top-1 and top-5 accuracy from 0 to 1.

    Classes of equal probability share the credit (``trainer.evaluation.scoring``).
    """

    num_images: int
    loss: float
    top1: float
    top5: float

    def to_text(self, num_classes: int) -> str:
        """Return ``loss 1.2345  top-1 56.78 % (chance 10 %)  top-5 90.12 % (chance 50 %)  (1,600 images)``."""
        return (
            f"loss {self.loss:.4f}  top-1 {100 * self.top1:.2f} % {format_chance(num_classes)}  "
            f"top-5 {100 * self.top5:.2f} % {format_chance(num_classes, 5)}  ({count_of(self.num_images, 'image')})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over images, which can be added in any order.

    ``loss`` is a sum in nats. ``places_2T`` holds the credit for top-1 and top-5 as exact fractions: int64 (2, K + 1),
    the places won by labels (row 0: top-1, 1: top-5) by the number of tied classes that share them, since the
    quotients themselves would be rounded, and their sum would depend on the order.
    """

    num_images: int
    loss: float
    places_2T: NDArray[np.int64]

    def score(self) -> Score:
        """Divide by the number of images; accuracies are exact, rounded once. Raises ValueError for no images."""
        if not self.num_images:
            raise ValueError("no images to evaluate")
        top1, top5 = (
            float(sum((Fraction(int(row[t]), int(t)) for t in np.flatnonzero(row)), Fraction()) / self.num_images)
            for row in self.places_2T
        )
        return Score(num_images=self.num_images, loss=self.loss / self.num_images, top1=top1, top5=top5)


class ScoreCounter:
    """Accumulates the number of images, their loss and their top-1 and top-5 credit, by class."""

    def __init__(self) -> None:
        self._images_K, self._loss_K = np.zeros(0, np.int64), np.zeros(0)
        # By label, then by (0: top-1 or 1: top-5, classes that tied).
        self._places: defaultdict[int, Counter[tuple[int, int]]] = defaultdict(Counter)

    def add(self, log_probabilities_NK: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Add images, without padding: float64 log-probabilities (N, K) and labels (N,)."""
        loss = -log_probabilities_NK.gather(1, labels_N[:, None])[:, 0]
        labels, num_classes = labels_N.cpu().numpy(), log_probabilities_NK.shape[1]
        self._allocate(num_classes)
        self._images_K += np.bincount(labels, minlength=num_classes)
        self._loss_K += np.bincount(labels, loss.cpu().numpy(), num_classes)
        for row, k in enumerate((1, 5)):
            won, tied = (column.tolist() for column in count_topk_places(log_probabilities_NK, labels_N, k))
            for label, count, ties in zip(labels.tolist(), won, tied, strict=True):
                self._places[label][row, ties] += count

    def totals(self, num_classes: int) -> Totals:
        """Return the sums over all images; ``num_classes`` gives their shape if none were added."""
        self._allocate(num_classes)
        return self._sum_labels(range(num_classes))

    def score(self) -> Score:
        """Return the score over all images. Raises ValueError for no images."""
        return self.totals(len(self._images_K)).score()

    def by_class(self) -> tuple[Score | None, ...]:
        """Return the score of each class's images, by label; None for a class without images."""
        each = [self._sum_labels([label]) for label in range(len(self._images_K))]
        return tuple(totals.score() if totals.num_images else None for totals in each)

    def _allocate(self, num_classes: int) -> None:
        if not len(self._images_K):
            self._images_K, self._loss_K = np.zeros(num_classes, np.int64), np.zeros(num_classes)

    def _sum_labels(self, labels: Sequence[int]) -> Totals:
        places_2T = np.zeros((2, len(self._images_K) + 1), np.int64)
        for label in labels:
            for place, count in self._places[label].items():
                places_2T[place] += count
        mine = list(labels)
        images, loss = int(self._images_K[mine].sum()), float(self._loss_K[mine].sum())
        return Totals(num_images=images, loss=loss, places_2T=places_2T)


def count_results(model: Model, batches: Iterable[Batch]) -> ScoreCounter:
    """Count a model's results over all batches, without padding entries (label -1)."""
    counted = ScoreCounter()
    for batch in batches:
        real = batch.labels_N >= 0
        counted.add(compute_log_probabilities([model], batch.images_NCHW)[0][real], batch.labels_N[real])
    return counted


def evaluate_model(model: Model, batches: Iterable[Batch]) -> Score:
    """Score a model over all batches, without padding entries (label -1). Raises ValueError for no images."""
    return count_results(model, batches).score()


def evaluate_checkpoint(data: TrainingData, path: Path, device: torch.device) -> Score:
    """Score a checkpoint (a file, or a run folder's newest) on ``data``'s validation split: one view, one device.

    Raises CheckpointError if it cannot be read or was trained on other classes or data, TrainError if ``data`` has no
    validation split.
    """
    return assess(data, Ensemble.load([path]), device, quiet=True).score


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFit:
    """Result of fitting ensemble weights: the number of images, and their loss in nats before and after."""

    num_images: int
    loss_equal: float
    loss_fitted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """Result of an evaluation, with the checkpoints (path, step, weight) that it averages.

    Args:
        paths: The checkpoints, as they were given.
        steps: The step that each was saved at.
        weights: The weight of each in the mean; their sum is 1.
        views: Views of an image whose predictions were averaged, 1 or 10.
        score: Over all images.
        by_class: By label; None for a class without images.
        fit: How the weights were fitted; None for equal weights.
        equal: The score with equal weights, if they were fitted.
    """

    paths: tuple[Path, ...]
    steps: tuple[int, ...]
    weights: tuple[float, ...]
    views: int
    score: Score
    by_class: tuple[Score | None, ...]
    fit: WeightFit | None = None
    equal: Score | None = None

    def to_text(self, classes: Sequence[str] = ()) -> str:
        """Return text to print: weights if there are several, one line for each of ``classes``, the score last."""
        rows, num_classes = [], len(self.by_class)
        if len(self.paths) > 1:
            parts = zip(self.weights, self.paths, self.steps, strict=True)
            rows += [f"weight {weight:.4f}  {path} at step {step}" for weight, path, step in parts]
        if self.fit is not None and self.equal is not None:
            rows += [
                f"weights fitted on {count_of(self.fit.num_images, 'other image')}: loss "
                f"{self.fit.loss_fitted:.4f} there ({self.fit.loss_equal:.4f} with equal weights)",
                f"equal weights: validation {self.equal.to_text(num_classes)}",
            ]
        rows += [
            f"{name}: {score.to_text(num_classes) if score else 'no images'}"
            for name, score in zip(classes, self.by_class, strict=False)
        ]
        views = ", mean of ten views" if self.views == 10 else ""
        return "\n".join([*rows, f"validation {self.score.to_text(num_classes)}{views}"])

    def to_dict(self, facts: DataFacts, *, per_class: bool = False) -> dict[str, Any]:
        """Return JSON values: losses in nats, accuracies from 0 to 1."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFitData:
    """Images to fit weights on: a share of the validation split, which is then not scored, or another split's."""

    share: float = 0.0
    data: TrainingData | None = None


class PredictionSink(Protocol):
    """Receives each batch with its predictions: ``predictions.PredictionsFile``, ``mistakes.WorstMistakes``."""

    def add(self, batch: Batch, log_probabilities_NK: torch.Tensor) -> None:
        """Take a batch without padding and its log-probabilities, float64 (N, K)."""
        ...


def assess(
    data: TrainingData,
    ensemble: Ensemble,
    device: torch.device,
    *,
    views: int = 1,
    fit_on: WeightFitData | None = None,
    predictions: PredictionSink | None = None,
    quiet: bool = False,
) -> Assessment:
    """Score an ensemble on the validation split, averaging probabilities over ``views`` (1 or 10) and checkpoints.

    Raises CheckpointError if the checkpoints do not fit the data, TrainError if there is no validation split, only one
    checkpoint to weight, or no images to fit on.

    Args:
        data: The source of the images.
        ensemble: The checkpoints, one or several.
        device: Where the networks run.
        views: 1, the center crop, or 10.
        fit_on: The images on which the checkpoints' weights are fitted; None: equal weights.
        predictions: Receives every batch with its predictions.
        quiet: Show no progress.
    """
    facts = data.facts()
    ensemble.require_match(facts)
    if facts.num_val == 0:
        raise TrainError("the data set has no validation split; name one with `val`")
    speakers = _Predictors(models=ensemble.build_models(device), device=device, views=views, quiet=quiet)
    weights, fit, kept_back = ensemble.equal_weights, None, frozenset[int]()
    if fit_on is not None:
        kept_back = _choose_held_out(fit_on, facts)
        weights, fit = _fit_weights_on(speakers, ensemble, fit_on.data or data, kept_back)
    tally, equal = ScoreCounter(), ScoreCounter()
    for batch, each in speakers.predict_batches(data, "evaluate", without=kept_back):
        together = mix_models(each, weights)
        tally.add(together, batch.labels_N)
        if fit is not None:
            equal.add(mix_models(each, ensemble.equal_weights), batch.labels_N)
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


def _choose_held_out(fit_on: WeightFitData, facts: DataFacts) -> frozenset[int]:
    """Choose the ids of validation images to fit weights on; none if another split is given for that.

    Raises TrainError if that split is the one scored or trained on, or if the share leaves no image to fit or score.
    """
    share, num_images = fit_on.share, facts.num_val
    if fit_on.data is not None:
        digest = fit_on.data.facts().val_digest
        known = {facts.val_digest: "the one that is scored", facts.train_digest: "the one that was trained on"}
        if digest in known:
            raise TrainError(f"`fit_on`: this split is {known[digest]}; give another, or a share such as 0.5")
        return frozenset()
    count = round(share * num_images)
    if not 0 < count < num_images:
        raise TrainError(
            f"`fit_on`: received {share:g}, which is {count} of {num_images} validation images; "
            "expected a fraction that leaves images to fit on and images to score"
        )
    return frozenset(choose_by_hash(num_images, count, "fit"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Predictors:
    """The networks on their device, and the number of views that each prediction averages."""

    models: Sequence[Model]
    device: torch.device
    views: int
    quiet: bool

    def predict_batches(
        self,
        data: TrainingData,
        what: str,
        *,
        only: frozenset[int] = frozenset(),
        without: frozenset[int] = frozenset(),
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yield the batches of the validation split, each with every network's log-probabilities, float64 (M, N, K).

        ``only`` these ids are included, if any are given, and those ``without`` left out. Padding and images left out
        are removed before a network sees them.
        """
        stream = data.validation(BatchSlice(), None, self.device, self.views)
        for batch in with_progress(stream, data.facts().num_val, what, quiet=self.quiet):
            ids = batch.ids_N.tolist()
            rows = [n for n, i in enumerate(ids) if i >= 0 and i not in without and (not only or i in only)]
            if len(rows) == len(ids):
                yield batch, compute_log_probabilities(self.models, batch.images_NCHW)
            elif rows:
                part = Batch(
                    images_NCHW=batch.images_NCHW[rows], labels_N=batch.labels_N[rows], ids_N=batch.ids_N[rows]
                )
                yield part, compute_log_probabilities(self.models, part.images_NCHW)


def _fit_weights_on(
    speakers: _Predictors, ensemble: Ensemble, data: TrainingData, only: frozenset[int]
) -> tuple[tuple[float, ...], WeightFit]:
    """Fit weights on ``data``'s validation split, or ``only`` these ids of it, and return them with the result."""
    facts = data.facts()
    ensemble.require_match(facts)
    if len(ensemble.states) == 1:
        raise TrainError("`fit_on`: received one checkpoint, expected several; give `checkpoints` for each")
    if facts.num_val == 0:
        raise TrainError("`fit_on`: received a split without images; give a fraction, or a split that has some")
    parts = [
        each.take_along_dim(batch.labels_N[None, :, None], dim=2)[:, :, 0].cpu().numpy()
        for batch, each in speakers.predict_batches(data, "fit", only=only)
    ]
    log_p_MN = np.concatenate(parts, axis=1)
    for path, log_p_N in zip(ensemble.paths, log_p_MN, strict=True):
        if not np.isfinite(log_p_N).all():
            raise TrainError(f"`fit_on`: {path} predicts infinite or NaN probabilities; leave it out")
    equal, weights = ensemble.equal_weights, fit_weights(log_p_MN)
    losses = (_mean_loss(log_p_MN, equal), _mean_loss(log_p_MN, weights))
    return weights, WeightFit(num_images=log_p_MN.shape[1], loss_equal=losses[0], loss_fitted=losses[1])


def _mean_loss(log_p_MN: NDArray[np.float64], weights: Sequence[float]) -> float:
    return float(-mix_models(torch.from_numpy(log_p_MN)[:, :, None], weights).mean())


def with_progress(batches: Iterable[Batch], total: int, what: str, *, quiet: bool = False) -> Iterator[Batch]:
    """Yield the same batches and show progress; ``what`` is being done to ``total`` images, padding not counted."""
    with progress_bar(total, "images", what, quiet=quiet) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.ids_N >= 0).sum()))
