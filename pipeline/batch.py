"""CONTRACT 2: the batches that the pipeline yields and the trainer consumes.

Shape legend: N = batch, C = 3 channels (R, G, B), H = W = 224 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch

from alexstream.sharding.dataset_v1.recipe import EncodeRecipe

CROP_PX = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Record how long each stage of the stream took for a batch, in seconds; work of n threads counts as 1/n.

    Args:
        read_s: Reading stored bytes from disk, cache or object store.
        decode_s: Decoding, with crop and flip where DALI does them.
        augment_s: Order and draws; applying them belongs to decode and normalization.
        exchange_s: Waiting for the other column's half.
        finish_s: Normalization, that is mean and lighting.
    """

    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    exchange_s: float = 0.0
    finish_s: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        """Return the sum of each stage."""
        return StageTimes(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBatch:
    """Hold decoded, cropped and flipped images before normalization, the form in which processes exchange them.

    Args:
        crops_NCHW: uint8, 0..255.
        labels_N: int64.
        ids_N: int64, row of the catalog; -1: padding.
        yx_N2: int32, the crop's corner.
        flip_N: int32, 1 = mirrored.
        rgb_N3: float32, lighting offset.
        stages: Time that this process has spent on it so far; not exchanged.
    """

    crops_NCHW: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    yx_N2: torch.Tensor
    flip_N: torch.Tensor
    rgb_N3: torch.Tensor
    stages: StageTimes = StageTimes()

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the six tensors, in the order of the fields."""
        return self.crops_NCHW, self.labels_N, self.ids_N, self.yx_N2, self.flip_N, self.rgb_N3

    @classmethod
    def from_tensors(cls, tensors: tuple[torch.Tensor, ...], stages: StageTimes = StageTimes()) -> CropBatch:
        """Make a batch of the six tensors that ``tensors`` returned."""
        crops, labels, ids, yx, flip, rgb = tensors
        return cls(
            crops_NCHW=crops, labels_N=labels, ids_N=ids, yx_N2=yx, flip_N=flip, rgb_N3=rgb, stages=stages
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Hold a batch that is ready for the network, on its device.

    Args:
        images_NCHW: float32: pixels on 0..255 minus the mean image, plus lighting; not divided by a standard deviation
            (the constants of the paper's response normalization assume this scale), unless the recipe says so.
        labels_N: int64; -1 in the padding of the last evaluation batch.
        ids_N: int64, row of the catalog; -1 in the same entries.
        stages: How long making it took.
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor
    ids_N: torch.Tensor
    stages: StageTimes = StageTimes()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSlice:
    """Select the slice of every batch that this process decodes: number ``index`` of ``count`` equal slices.

    Args:
        index: The slice of this process, from 0.
        count: How many slices a batch has.
    """

    index: int = 0
    count: int = 1

    def to_slice(self, batch_size: int) -> slice:
        """Return this slice of a batch's positions. Raises ValueError if the batch does not divide evenly.

        Args:
            batch_size: Images in the whole batch.
        """
        if batch_size % self.count:
            raise ValueError(f"batch size: received {batch_size}, expected a multiple of {self.count} parts")
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


class Exchange(Protocol):
    """Start gathering the parts of a batch from all processes; return a function that waits for the whole batch."""

    def __call__(self, part: CropBatch) -> Callable[[], CropBatch]:
        """Start exchanging this process's part of a batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePreprocessing:
    """Hold all that turns a picture into the input of a network in evaluation, and its answer into words.

    A checkpoint keeps it, so that pictures can be classified where the data set is not. Raises ValueError for a mean
    of another shape, and for divisors of no data set.

    Args:
        encode: How a picture becomes a square of pixels.
        mean: What is subtracted, float32 (3, M, M), R, G, B on 0..255; M is the side of the square, or 224.
        divisors: What each channel is divided by after that.
        class_names: The classes in words, by label; empty if they have no other names than ``DataFacts.classes``.
    """

    encode: EncodeRecipe
    mean: torch.Tensor
    divisors: tuple[float, float, float]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sides = (self.encode.size_px, CROP_PX)
        if tuple(self.mean.shape) not in [(3, side, side) for side in sides]:
            raise ValueError(f"mean is {tuple(self.mean.shape)}, expected {(3, sides[0], sides[0])}")
        if not all(1e-6 < divisor < 1e6 for divisor in self.divisors):
            raise ValueError(f"divisors are {self.divisors}, expected numbers above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """Describe the data to the trainer: sizes, classes, and the digests and options that a checkpoint is bound to.

    Args:
        num_train: Samples of the training split.
        num_val: Samples of the validation split; 0 without one.
        classes: Their names; the index is the label.
        train_digest: sha256 that the training split's manifest gives its shards.
        val_digest: That of the validation split; empty without one.
        augmentation: The recipe by which the training stream augments.
        seed: Determines order and augmentation.
        batch_size: Images in a batch, of all processes together that share it.
        order: ``global`` or ``grouped``.
        preprocessing: What checkpoints keep to classify pictures without the data set; None for nothing.
    """

    num_train: int
    num_val: int
    classes: tuple[str, ...]
    train_digest: str
    val_digest: str
    augmentation: str
    seed: int
    batch_size: int
    order: str = "global"
    preprocessing: ImagePreprocessing | None = field(default=None, repr=False, compare=False)


class TrainingData(Protocol):
    """Provide the batches of a training run; picklable, so that it can be sent to the process of each rank."""

    def facts(self) -> DataFacts:
        """Check the data and return its description."""
        ...

    def training(
        self,
        start_step: int,
        part: BatchSlice,
        exchange: Exchange | None,
        device: torch.device,
        augmentation: str | None = None,
    ) -> Iterator[Batch]:
        """Yield batches without end from step ``start_step`` on, augmented by ``augmentation`` or as ``facts`` says.

        Args:
            start_step: The first batch to give.
            part: The slice of every batch that this process decodes.
            exchange: Brings the slices together; None: each process keeps its own.
            device: Where the batches are wanted.
            augmentation: Another recipe than that of ``facts``.
        """
        ...

    def validation(
        self, part: BatchSlice, exchange: Exchange | None, device: torch.device, views: int = 1
    ) -> Iterator[Batch]:
        """Yield the validation split once, in catalog order, the last batch padded to full size.

        Args:
            part: The slice of every batch that this process decodes.
            exchange: Brings the slices together; None: each process keeps its own.
            device: Where the batches are wanted.
            views: 1, the center crop, or 10, and then ``images_NCHW`` is (N, 10, C, H, W): corners and center, then
                the same mirrored (paper, section 4.1).
        """
        ...

    def decode_path(self, device: torch.device, exchanged: bool) -> str:
        """Describe in words how images are decoded.

        Args:
            device: Where the batches are wanted.
            exchanged: Whether each process decodes a slice of the batch and gets the rest from the others.
        """
        ...
