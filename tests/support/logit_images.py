"""Images that hold their own logits, and networks that read them: evaluation by numbers that can be written down."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from alexstream.pipeline.batch import Batch, DataFacts
from alexstream.trainer.checkpoint import Checkpoint
from alexstream.trainer.evaluation.ensemble import Ensemble
from alexstream.trainer.recipe import Recipe

FACTS = DataFacts(
    num_train=10, num_val=0, classes=tuple("abcdefg"), train_digest="d1", val_digest="v1",
    augmentation="paper", seed=0, batch_size=4,
)  # fmt: skip


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@dataclass(frozen=True)
class SpokenData:
    """A validation split whose images are logits, (N, V, K); batches of four, the last filled up with padding."""

    logits_NVK: np.ndarray
    labels_N: np.ndarray
    facts_of: DataFacts = FACTS

    def facts(self):
        return replace(self.facts_of, num_val=len(self.labels_N))

    def validation(self, part, exchange, device, views=1):
        count = len(self.labels_N)
        for start in range(0, count, 4):
            ids = np.arange(start, start + 4)
            rows = np.minimum(ids, count - 1)
            images = torch.from_numpy(self.logits_NVK[rows])[..., None, None]
            labels, ids = (torch.from_numpy(np.where(ids < count, x, -1)) for x in (self.labels_N[rows], ids))
            yield Batch(images_NCHW=images if views == 10 else images[:, 4], labels_N=labels, ids_N=ids)


@dataclass(frozen=True, kw_only=True)
class Readers(Ensemble):
    """Networks that give an image's logits times a factor, one factor each."""

    factors: tuple[float, ...]

    def build_models(self, device):
        return [lambda images, f=factor: images.flatten(1) * f for factor in self.factors]


def checkpoint(**data):
    names = ("classes", "augmentation", "train_digest")
    held = {**{name: getattr(FACTS, name) for name in names}, "classes": list(FACTS.classes), **data}
    return Checkpoint(step=3, errors=(), recipe=Recipe(), data=held, parameters={}, velocity={})


def readers(*factors):
    paths = tuple(f"reader{i}" for i in range(len(factors)))
    return Readers(paths=paths, states=(checkpoint(),) * len(factors), factors=factors)


def spoken(num_images=11, seed=0, **facts):
    generator = np.random.default_rng(seed)
    logits = 3 * generator.standard_normal((num_images, 10, len(FACTS.classes)))
    return SpokenData(logits, generator.integers(0, len(FACTS.classes), num_images), replace(FACTS, **facts))
