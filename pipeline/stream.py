"""Stream batches from data set folders: open them, draw, decode, exchange between processes, and normalize.

Five lines feed any training loop::

    from alexstream.pipeline.stream import ShardedData

    data = ShardedData(train="shards/train", val="shards/val", batch_size=128, num_threads=8)
    for batch in data.training():      # endless; the state of the stream is the number of batches taken
        loss = criterion(model(batch.images_NCHW), batch.labels_N)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch

from alexstream.core.program import program_name
from alexstream.core.progress import tell_activity
from alexstream.core.storage import parse_location
from alexstream.core.text import count_of
from alexstream.pipeline.batch import Batch, BatchSlice, DataFacts, Exchange
from alexstream.pipeline.batch_plan import SkippedSamples, make_evaluation_planner, make_training_planner
from alexstream.pipeline.batch_source import PREFETCH_DEPTH, BatchSource, choose_operator, uses_own_threads
from alexstream.pipeline.decode.dali import Engine
from alexstream.pipeline.epoch_loader import EpochLoader, LoaderPosition
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.cached_shards import CacheOptions
from alexstream.pipeline.reading.dataset import Dataset, open_dataset
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.sharding.dataset_v1.layout import is_dataset
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest

CPU = torch.device("cpu")
CHOICES = {
    "augmentation": tuple(AUGMENTATIONS),
    "order": ("global", "grouped"),
    "on_bad_sample": ("fail", "skip"),
    "decoder": ("auto", "dali", "threads"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedData:
    """Describe the batches of a training run: a training split, an optional validation split, and stream options.

    Nothing is opened until a method is called; then each split is opened and checked once in a process. A folder that
    is sharded anew takes a new ShardedData. Raises StreamError for a value that is not among the choices.

    Args:
        train: The training split: a folder, or a place in an object store (``s3://bucket/train``). If it is the folder
            that holds ``train/``, that one is taken, and ``val/`` beside it if there is one.
        val: The validation split, likewise; None if there is none.
        batch_size: Images in a batch, of all processes together that share it.
        seed: Determines order and augmentation.
        augmentation: The recipe: ``paper``, ``original``, ``inception`` or ``none``.
        order: ``global``, or ``grouped`` which mixes a few shards at a time, for disks and object stores that are
            slow at short reads.
        num_threads: Threads that decode, in each process.
        prefetch: Batches that are decoded ahead of use.
        on_bad_sample: ``fail`` at a sample that no longer decodes, or ``skip`` it: it is logged, the next one takes
            its place, and validation leaves it out.
        decoder: ``auto``; ``dali`` to do without the compiled operator; ``threads`` to run it in threads of alexstream
            rather than DALI's. All give the same batches.
        cache: The folder into which shards of an object store are downloaded; None for ``~/.cache/alexstream``.
        cache_bytes: The most that the cache may hold, in bytes.
    """

    train: Path | str = field(kw_only=False)
    val: Path | str | None = field(default=None, kw_only=False)
    batch_size: int = 128
    seed: int = 1
    augmentation: str = "paper"
    order: str = "global"
    num_threads: int = 1
    prefetch: int = 2
    on_bad_sample: str = "fail"
    decoder: str = "auto"
    cache: Path | str | None = None
    cache_bytes: int = 64 << 30
    _stream: Stream | None = field(default=None, init=False, repr=False, compare=False)
    # Made before any process is forked, so that the workers of a DataLoader share it.
    _position: LoaderPosition = field(default_factory=LoaderPosition, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in CHOICES:
            _check_choice(name, getattr(self, name))
        for name, least in _LEAST.items():
            _check_number(name, getattr(self, name), least)
        _check_place("train", self.train)
        if self.val is not None:
            _check_place("val", self.val)

    def __bool__(self) -> bool:
        """Return True: these are options, whatever the data set holds."""
        return True

    def __len__(self) -> NoReturn:
        """Raise TypeError, which says what has a length."""
        raise TypeError("ShardedData describes batches: data.loader() has a length and iterates over epochs of them")

    def __iter__(self) -> NoReturn:
        """Raise TypeError, which says what iterates."""
        raise TypeError("ShardedData describes batches: iterate over data.loader(), or over data.training()")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the options alone: a process that receives them opens the splits itself."""
        return _make_options, ({one.name: getattr(self, one.name) for one in fields(self) if one.init},)

    def open(self) -> Stream:
        """Return the stream that these options describe; the same one at each call in a process."""
        if self._stream is None:
            # Of a copy: a stream that referred to these options would keep its catalogs until the next collection.
            object.__setattr__(self, "_stream", Stream(replace(self), self._position))
        assert self._stream is not None
        return self._stream

    @property
    def encoding(self) -> str:
        """How the training images are stored: jpeg, raw or keep. Raises DatasetError if there is no such data set."""
        return self.open().manifest.encode.encoding

    def facts(self) -> DataFacts:
        """Open and check both splits, and describe them.

        Raises DatasetError or StreamError if a file is missing or does not match its digest, or if the two
        splits have different classes.
        """
        return self.open().facts()

    def training(
        self,
        start_step: int = 0,
        part: BatchSlice = BatchSlice(),
        exchange: Exchange | None = None,
        device: torch.device = CPU,
        augmentation: str | None = None,
    ) -> Iterator[Batch]:
        """Yield training batches without end from step ``start_step`` on, as ``TrainingData.training``.

        Args:
            start_step: The first batch to give; any one is given at once.
            part: The slice of every batch that this process decodes.
            exchange: Brings the slices together; by default each process keeps its own.
            device: Where the batches are wanted.
            augmentation: Another recipe than that of the stream.
        """
        return self.open().training(start_step, part, exchange, device, augmentation)

    def loader(
        self, part: BatchSlice = BatchSlice(), device: torch.device = CPU, *, epoch: int | None = None
    ) -> EpochLoader:
        """Return the training batches as (images, labels), in epochs and with a state, for a training loop of your own.

        It goes on where the last loader of this object stopped: the next epoch has other crops in another order. Raises
        StreamError if the data set does not fill one batch.

        Args:
            part: This process's of ``count`` replicas, which share every batch of ``batch_size``.
            device: Where the batches are wanted.
            epoch: Begin at the start of this epoch, counted from 0.
        """
        return self.open().loader(part, device, epoch=epoch)

    def validation(
        self,
        part: BatchSlice = BatchSlice(),
        exchange: Exchange | None = None,
        device: torch.device = CPU,
        views: int = 1,
    ) -> Iterator[Batch]:
        """Yield the validation split once, as ``TrainingData.validation``.

        Raises StreamError if there is none, and ValueError for another number of views.

        Args:
            part: The slice of every batch that this process decodes.
            exchange: Brings the slices together; by default each process keeps its own.
            device: Where the batches are wanted.
            views: 1, the center, or 10, from one decode: ``images_NCHW`` is then (N, 10, C, H, W), the four corners
                and the center, then the same mirrored (paper, section 4.1).
        """
        return self.open().validation(part, exchange, device, views)

    def decode_path(self, device: torch.device = CPU, exchanged: bool = False) -> str:
        """Describe in words how the images of ``training`` are decoded.

        Args:
            device: Where the batches are wanted.
            exchanged: Whether each process decodes a slice of the batch and gets the rest from the others.
        """
        return self.open().decode_path(device, exchanged)


_LEAST = {"batch_size": 1, "num_threads": 1, "prefetch": 1, "cache_bytes": 1}  # the smallest value of each option


def _check_number(name: str, value: object, least: int) -> None:
    """Raise StreamError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise StreamError(f"{name}: received {value!r}, expected a whole number of at least {least}")


def _check_choice(name: str, value: object) -> None:
    """Raise StreamError if ``value`` is not among the choices of the field ``name``."""
    allowed = CHOICES[name]
    if value not in allowed:
        raise StreamError(f"{name}: received {value!r}, expected one of {', '.join(allowed)}")


def _check_place(name: str, value: object) -> None:
    """Raise StreamError unless ``value`` may be the location of a split."""
    if not isinstance(value, str | os.PathLike) and not hasattr(value, "joinpath"):  # as UPath has, of object stores
        raise StreamError(f"{name}: received {value!r}, expected a folder, as text or a path")
    if not str(value):
        raise StreamError(f"{name}: received an empty text, expected a folder")


def _to_device(device: torch.device | str) -> torch.device:
    """Return a device. Raises StreamError for the name of none."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise StreamError(f"device: received {device!r}, expected one of torch's, as 'cpu' or 'cuda'") from error


def _make_options(values: dict[str, Any]) -> ShardedData:
    return ShardedData(**values)


def _to_location(place: Path | str) -> Path:
    place = parse_location(place) if isinstance(place, str) else place
    return place.expanduser() if isinstance(place, Path) and str(place).startswith("~") else place


class Stream:
    """Hold the splits of a ``ShardedData``, each opened and checked when it is first used, and make batches of them.

    ``training`` and ``validation`` read by file descriptors of their own, so that any number of them may run at once.
    The methods are those of ``ShardedData``.
    """

    def __init__(self, options: ShardedData, position: LoaderPosition) -> None:
        """Take the options, and where the loaders of whole batches are."""
        self.options = options
        self._positions = {BatchSlice(): position}

    @cached_property
    def _places(self) -> tuple[Path, Path | None]:
        """The places of training and validation split: those given, or those in the folder that holds both."""
        train, val = _to_location(self.options.train), self.options.val
        if not is_dataset(train) and is_dataset(train / "train"):
            beside = train / "val" if is_dataset(train / "val") else None
            return train / "train", beside if val is None else _to_location(val)
        return train, None if val is None else _to_location(val)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the training split, for which nothing else is read. Raises DatasetError."""
        return load_manifest(self._places[0])

    @cached_property
    def train(self) -> Dataset:
        """The training split. Raises DatasetError or StreamError if it is incomplete or does not fit its manifest."""
        return self._open_split(self._places[0], self.manifest)

    @cached_property
    def val(self) -> Dataset | None:
        """The validation split, None without one. Raises as ``train``."""
        return None if self._places[1] is None else self._open_split(self._places[1])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The recipe with the statistics and the mean image of the training split. Raises DatasetError."""
        return Preprocessing.from_folder(
            self.train.folder, self.train.manifest, AUGMENTATIONS[self.options.augmentation]
        )

    @cached_property
    def order(self) -> Order:
        """The order of the training samples."""
        sizes = tuple(record.num_samples for record in self.train.manifest.shards)
        options = self.options
        return Order(num_samples=len(self.train), seed=options.seed, kind=options.order, shard_sizes=sizes)

    def facts(self) -> DataFacts:
        """Check both splits and describe them, as ``ShardedData.facts``."""
        options, train, val = self.options, self.train, self.val
        if val is not None and val.manifest.classes != train.manifest.classes:
            raise StreamError(
                f"{options.val} has {count_of(len(val.manifest.classes), 'class', 'classes')} and {options.train} has "
                f"{len(train.manifest.classes)}, or in another order; labels would not mean the same: "
                f"shard both from one source with: {program_name()} shard --src FOLDER_WITH_TRAIN_AND_VAL"
            )
        return DataFacts(
            num_train=len(train),
            num_val=len(val) if val is not None else 0,
            classes=train.manifest.classes,
            train_digest=train.manifest.digest,
            val_digest=val.manifest.digest if val is not None else "",
            augmentation=options.augmentation,
            seed=options.seed,
            batch_size=options.batch_size,
            order=options.order,
            preprocessing=self.preprocessing.for_images(train.manifest),
        )

    def training(
        self,
        start_step: int = 0,
        part: BatchSlice = BatchSlice(),
        exchange: Exchange | None = None,
        device: torch.device = CPU,
        augmentation: str | None = None,
    ) -> Iterator[Batch]:
        """Yield training batches without end from step ``start_step`` on, as ``ShardedData.training``."""
        return self._train_every(1, start_step, part, exchange, device, augmentation)

    def _train_every(
        self,
        stride: int,
        start_step: int,
        part: BatchSlice,
        exchange: Exchange | None = None,
        device: torch.device = CPU,
        augmentation: str | None = None,
    ) -> Iterator[Batch]:
        """Yield every ``stride``-th training batch from step ``start_step`` on."""
        data, options = self.train.reopen_shards(), self.options
        self._check_cache_size()
        name = options.augmentation if augmentation is None else augmentation
        _check_choice("augmentation", name)
        source = self._make_source(data, self.preprocessing.with_recipe(AUGMENTATIONS[name]), part, device)
        steps = make_training_planner(data, source.augmenter, self.order, options.batch_size, part, source.skipped)
        return source.read_batches(lambda i: steps(start_step + stride * i), exchange)

    def validation(
        self,
        part: BatchSlice = BatchSlice(),
        exchange: Exchange | None = None,
        device: torch.device = CPU,
        views: int = 1,
    ) -> Iterator[Batch]:
        """Yield the validation split once, as ``ShardedData.validation``."""
        if views not in (1, 10):
            raise ValueError(f"views: received {views}, expected 1 or 10")
        if self.val is None:
            raise StreamError(f"{self.options.train}: no validation split; give one as `val`, or the folder of both")
        preprocessing = self.preprocessing
        preprocessing = preprocessing.with_recipe(preprocessing.recipe.for_evaluation())
        data = self.val.reopen_shards()
        source = self._make_source(data, preprocessing, part, device)
        steps = make_evaluation_planner(data, source.augmenter, self.options.batch_size, part, source.skipped)
        return source.read_batches(steps, exchange, views=views)

    def loader(
        self, part: BatchSlice = BatchSlice(), device: torch.device = CPU, *, epoch: int | None = None
    ) -> EpochLoader:
        """Return the training batches as (images, labels) in epochs, as ``ShardedData.loader``."""
        data, batch_size = self.train, self.options.batch_size
        if len(data) < batch_size:
            raise StreamError(
                f"{self.options.train} has {count_of(len(data), 'sample')}, fewer than one batch of {batch_size}; "
                "give a smaller batch_size"
            )
        names = ("seed", "batch_size", "augmentation", "order")
        identity = {"train_digest": data.manifest.digest, **{name: getattr(self.options, name) for name in names}}

        def stream(step: int, stride: int) -> Iterator[Batch]:
            return self._train_every(stride, step, part, device=device)

        position, steps = self._positions.setdefault(part, LoaderPosition()), len(data) // batch_size
        if epoch is not None:
            _check_number("epoch", epoch, 0)
            position.write(epoch * steps)
        return EpochLoader(stream, steps, identity, position)

    def decode_path(self, device: torch.device = CPU, exchanged: bool = False) -> str:
        """Describe in words how the images of ``training`` are decoded, as ``ShardedData.decode_path``."""
        options, encoding, device = self.options, self.manifest.encode.encoding, _to_device(device)
        if device.type == "cuda":
            return f"{encoding} shards, decoded on the GPU by nvJPEG (its hardware decoder where there is one)"
        threads = count_of(options.num_threads, "thread")
        recipe = AUGMENTATIONS[options.augmentation]
        if choose_operator(options.decoder, encoding, recipe, CPU, exchanged) is not None:
            own = " without DALI" if uses_own_threads(options.decoder) else ""
            return f"{encoding} shards, decoded and normalized in one compiled operator{own}, {threads}"
        return f"{encoding} shards, decoded by DALI on the CPU, {threads}"

    def _open_split(self, place: Path, manifest: Manifest | None = None) -> Dataset:
        options = self.options
        cache = Path(os.path.expanduser("~/.cache/alexstream") if options.cache is None else options.cache)
        if options.cache is None and not cache.is_absolute() and not isinstance(place, Path):  # "~" without a home
            raise StreamError(f"{place}: there is no home folder to keep its shards in; give `cache` FOLDER")
        cache_options = CacheOptions(cache=cache, limit_bytes=options.cache_bytes)
        keep_steps = options.prefetch + PREFETCH_DEPTH + 4
        with tell_activity(f"checking {place}"):
            return open_dataset(place, cache_options, keep_steps=keep_steps, manifest=manifest)

    def _check_cache_size(self) -> None:
        """Raise StreamError if the order is global, which needs all shards at any time, and the cache is too small."""
        data, options = self.train, self.options
        total = sum(record.num_bytes for record in data.manifest.shards)
        if not isinstance(data.folder, Path) and options.order == "global" and total > options.cache_bytes:
            raise StreamError(
                f"{data.folder} has {total} bytes, the cache may hold {options.cache_bytes}, and the global order "
                f"needs all of them at once; give `cache_bytes` {total} or more, or `order` grouped"
            )

    def _make_source(
        self, data: Dataset, preprocessing: Preprocessing, part: BatchSlice, device: torch.device
    ) -> BatchSource:
        options, device = self.options, _to_device(device)
        part.to_slice(options.batch_size)  # raises ValueError if the batch does not divide evenly
        engine = Engine(
            batch_size=options.batch_size // part.count,
            device=device,
            num_threads=options.num_threads,
            prefetch=options.prefetch,
        )
        return BatchSource(
            data=data,
            preprocessing=preprocessing,
            augmenter=preprocessing.make_augmenter(options.seed, data.manifest.encode.size_px),
            engine=engine,
            skipped=SkippedSamples(),
            skips_bad=options.on_bad_sample == "skip",
            decoder=options.decoder,
        )
