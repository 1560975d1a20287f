"""Validation: loss, top-1 and top-5 over a stream of batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline.batch import Batch
from trainer.model import AlexNet


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean cross-entropy in nats, and the shares of images whose label is the first or among the first five."""

    num_images: int
    loss: float
    top1: float
    top5: float


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
