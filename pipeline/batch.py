"""CONTRACT 2: what the pipeline makes and the trainer consumes.

Shape legend: N = batch, C = 3 channels (R, G, B), H = W = 224 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

CROP_PX = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Seconds that the stages of the stream took for a batch; work that n threads share counts by 1/n.

    ``read_s``: stored bytes from disk, cache or store; ``decode_s``: crop and flip included where DALI does them;
    ``augment_s``: order and draws (their arithmetic is part of decode and finish); ``exchange_s``: waiting for the
    other column's half; ``finish_s``: mean and lighting.
    """

    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    exchange_s: float = 0.0
    finish_s: float = 0.0

    def __add__(self, other: Stages) -> Stages:
        """Stage by stage."""
        return Stages(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBatch:
    """Decoded, cropped and flipped images before the finish: four times smaller than floats, so these travel.

    ``crops_NCHW`` uint8 0..255; ``labels_N`` int64; ``ids_N`` int64, row of the catalog (-1: padding);
    ``yx_N2`` int32, the crop's corner; ``flip_N`` int32, 1 = mirrored; ``rgb_N3`` float32, lighting offset.
    ``stages``: what this process spent on it so far; does not travel.
    """

    crops_NCHW: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    yx_N2: torch.Tensor
    flip_N: torch.Tensor
    rgb_N3: torch.Tensor
    stages: Stages = Stages()

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The six tensors, in the order of the fields."""
        return self.crops_NCHW, self.labels_N, self.ids_N, self.yx_N2, self.flip_N, self.rgb_N3

    @classmethod
    def of(cls, tensors: tuple[torch.Tensor, ...], stages: Stages = Stages()) -> CropBatch:
        """The inverse of ``tensors``."""
        crops, labels, ids, yx, flip, rgb = tensors
        return cls(
            crops_NCHW=crops, labels_N=labels, ids_N=ids, yx_N2=yx, flip_N=flip, rgb_N3=rgb, stages=stages
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch ready for the network, on its device.

    ``images_NCHW`` float32: pixels on 0..255 minus the mean image, plus lighting; not divided by a standard
    deviation (the paper's normalisation constants presuppose this scale). ``labels_N`` and ``ids_N`` int64,
    -1 in entries that only fill up the last evaluation batch. ``stages``: what making it took.
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    stages: Stages = Stages()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which consecutive part of every batch this process decodes: ``index`` of ``count`` equal parts."""

    index: int = 0
    count: int = 1

    def of(self, batch_size: int) -> slice:
        """The positions of this part. Raises ValueError if the batch does not divide evenly."""
        if batch_size % self.count:
            raise ValueError(f"batch size: received {batch_size}, expected a multiple of {self.count} parts")
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


class Exchange(Protocol):
    """Starts to bring the parts of a batch together and returns a call that waits for the whole batch."""

    def __call__(self, part: CropBatch) -> Callable[[], CropBatch]:
        """Start the exchange of this process's part."""
        ...


def no_exchange(part: CropBatch) -> Callable[[], CropBatch]:
    """The exchange of a process that decodes whole batches itself."""
    return lambda: part


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What the trainer must know of the data: sizes, classes, and the identities that a checkpoint is bound to."""

    num_train: int
    num_val: int
    classes: tuple[str, ...]
    train_digest: str
    val_digest: str
    augmentation: str
    seed: int
    batch_size: int
    order: str = "global"


class TrainingData(Protocol):
    """Where a training run's batches come from; picklable, so that it can be sent to a rank's process."""

    def facts(self) -> DataFacts:
        """Check the data and describe it."""
        ...

    def training(
        self,
        start_step: int,
        part: Part,
        exchange: Exchange,
        device: torch.device,
        augmentation: str | None = None,
    ) -> Iterator[Batch]:
        """Endless batches from step ``start_step`` on, augmented as ``augmentation`` says or as ``facts`` do."""
        ...

    def validation(self, part: Part, exchange: Exchange, device: torch.device, views: int = 1) -> Iterator[Batch]:
        """One pass over the validation split in catalog order; the last batch is filled up.

        ``views``: 1, the centre crop, or 10, and then ``images_NCHW`` is (N, 10, C, H, W): corners and centre, then
        the same mirrored (paper, section 4.1).
        """
        ...

    def decode_path(self, device: torch.device, exchanged: bool) -> str:
        """Which way the images take, in a sentence; ``exchanged``: each process decodes a part of the batch."""
        ...
