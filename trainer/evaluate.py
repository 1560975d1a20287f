"""Validation: loss, top-1 and top-5 over a stream of batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.batch import Batch, Part, TrainingData, no_exchange
from trainer.checkpoint import load
from trainer.columns import Columns
from trainer.errors import CheckpointError, TrainError
from trainer.model import AlexNet


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean cross-entropy in nats, and the shares of images whose label is the first or among the first five."""

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


@torch.no_grad()
def evaluate(model: AlexNet, batches: Iterable[Batch]) -> Score:
    """Score a model over all batches, padding entries (label -1) left out. Raises ValueError for no images."""
    count, loss, top1, top5 = 0, 0.0, 0, 0
    for batch in batches:
        real = batch.labels_N >= 0
        logits, labels = model(batch.images_NCHW)[real], batch.labels_N[real]
        loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        top1, top5 = top1 + int(best[:, 0].sum()), top5 + int(best.any(1).sum())
        count += len(labels)
    if count == 0:
        raise ValueError("no images to evaluate")
    return Score(num_images=count, loss=loss / count, top1=top1 / count, top5=top5 / count)


def evaluate_checkpoint(data: TrainingData, path: Path, device: torch.device) -> Score:
    """Score a checkpoint (a file, or a run folder's newest) on ``data``'s validation split, on one device.

    Raises CheckpointError if it cannot be read or was trained on other classes, TrainError if ``data`` has no
    validation split.
    """
    facts, state = data.facts(), load(path)
    if list(facts.classes) != state.data["classes"]:
        raise CheckpointError(
            f"{path}: trained on {len(state.data['classes'])} classes, but the data has {len(facts.classes)}, or "
            "they differ; evaluate on a data set with the same classes"
        )
    if facts.num_val == 0:
        raise TrainError("the data set has no validation split; name one with --val")
    model = AlexNet(state.parameters, Columns(), state.recipe, facts.seed).to(device)
    return evaluate(model, data.validation(Part(), no_exchange, device))
