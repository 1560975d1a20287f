"""Nearest training images of query images: choose queries, search, and present results as text, JSON and pictures.

Used by ``cli.py neighbours``; ``trainer.evaluation.nearest`` searches, ``trainer.evaluation.pictures`` draws.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.core.text import format_significant, quote_value
from alexstream.pipeline.batch import Batch, BatchSlice, TrainingData
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.evaluation.evaluate import with_progress
from alexstream.trainer.evaluation.nearest import choose_by_hash, collect_features, find_nearest
from alexstream.trainer.evaluation.pictures import CaptionedImage
from alexstream.trainer.network.model import AlexNet


class Catalog(Protocol):
    """Keys, labels and pixels of a split's samples, by sample id (``sharding.lookup.SampleLookup``)."""

    @property
    def keys(self) -> NDArray[Any]:
        """Keys by sample id."""
        ...

    def find(self, key: str) -> int | None:
        """Return the id of the sample with this key, or None."""
        ...

    def label(self, sample: int) -> int:
        """Return a sample's label."""
        ...

    def pixels(self, sample: int) -> NDArray[np.uint8]:
        """Return the standard view of a sample, uint8 (S, S, 3)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split: its catalog, and ``data``, a stream whose validation split it is, to pass over it once."""

    name: str
    catalog: Catalog
    data: TrainingData


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of a split; ``class_name`` is readable, ``distance`` is that from the query it was found for."""

    split: Split
    sample: int
    class_name: str
    distance: float = 0.0

    @property
    def key(self) -> str:
        """The sample's key."""
        return str(self.split.catalog.keys[self.sample])

    @property
    def label(self) -> int:
        """The sample's label."""
        return self.split.catalog.label(self.sample)

    def to_dict(self) -> dict[str, Any]:
        """Return split, key, label and class as JSON values."""
        return {"split": self.split.name, "key": self.key, "label": self.label, "class": self.class_name}

    def to_captioned(self, below: str) -> CaptionedImage:
        """Return the sample's standard view with two lines below it: its class name, and ``below``."""
        return CaptionedImage(pixels_SSC=self.split.catalog.pixels(self.sample), lines=(self.class_name, below))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """A query and the training images nearest to it, nearest first."""

    query: Sample
    nearest: tuple[Sample, ...]

    def to_text(self) -> str:
        """Return text to print: the query, then a line for each image found, with its distance."""
        rows = [f"{self.query.split.name} {self.query.key}  {self.query.class_name} ({self.query.label})"]
        rows += [
            f"  {format_significant(one.distance):>10}  {one.key}  {one.class_name} ({one.label})"
            for one in self.nearest
        ]
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the query and the images found as JSON values."""
        found = [{**one.to_dict(), "distance": one.distance} for one in self.nearest]
        return {"query": self.query.to_dict(), "nearest": found}

    def pictures(self) -> tuple[CaptionedImage, list[CaptionedImage]]:
        """Return the pictures of one row of ``pictures.save_neighbors``: the query, and the images found."""
        return self.query.to_captioned(self.query.key), [
            one.to_captioned(format_significant(one.distance)) for one in self.nearest
        ]


def find_neighbors(
    model: AlexNet,
    training: Split,
    queries: Sequence[tuple[Split, int]],
    class_names: Sequence[str],
    count: int,
    device: torch.device,
    *,
    quiet: bool = False,
) -> list[QueryResult]:
    """Find the ``count`` images of the training split that are nearest to each query, by center crops.

    Reads the queries' splits as far as the last query, and then the whole training split. Raises CheckpointError if an
    activation is not a number.
    """
    queries_QD = _collect_query_features(model, queries, device, quiet)
    features = functools.partial(_compute_features, model)
    ids, distances = find_nearest(features, _stream_split(training, "neighbours", device, quiet), queries_QD, count)

    def sample(split: Split, i: int, distance: float = 0.0) -> Sample:
        return Sample(split=split, sample=i, class_name=class_names[split.catalog.label(i)], distance=distance)

    return [
        QueryResult(query=sample(*query), nearest=tuple(sample(training, *one) for one in zip(*pair, strict=True)))
        for query, *pair in zip(queries, ids.tolist(), distances.tolist(), strict=True)
    ]


def choose_queries(splits: Sequence[Split], keys: Sequence[str], count: int, seed: int) -> list[tuple[Split, int]]:
    """Return queries (split, id): those with ``keys``, from the first split that has each; without keys, ``count``
    samples of the first split, chosen by ``seed``.

    Raises TrainError for a key that is in none of the splits.
    """
    if not keys:
        ids = choose_by_hash(len(splits[0].catalog.keys), count, f"queries:{seed}")
        return [(splits[0], i) for i in ids]
    return [_find_by_key(splits, key) for key in keys]


def _find_by_key(splits: Sequence[Split], key: str) -> tuple[Split, int]:
    for split in splits:
        found = split.catalog.find(key)
        if found is not None:
            return split, found
    names = " or ".join(split.name for split in splits)
    raise TrainError(
        f"`keys`: received {quote_value(key)}, which is no sample of {names}; expected a key such as "
        f"{quote_value(splits[0].catalog.keys[0])}"
    )


def _collect_query_features(
    model: AlexNet, queries: Sequence[tuple[Split, int]], device: torch.device, quiet: bool
) -> torch.Tensor:
    """Compute the features of the queries, float32 (Q, D), in their order."""
    found: dict[int, torch.Tensor] = {}
    for split in {split.name: split for split, _ in queries}.values():
        places = [place for place, (its, _) in enumerate(queries) if its is split]
        ids = [queries[place][1] for place in places]
        features = collect_features(
            functools.partial(_compute_features, model), _stream_split(split, "queries", device, quiet), ids
        )
        found.update(zip(places, features, strict=True))
    return torch.stack([found[place] for place in range(len(queries))])


def _compute_features(model: AlexNet, images_NCHW: torch.Tensor) -> torch.Tensor:
    features_ND = model.features(images_NCHW)
    if not torch.isfinite(features_ND).all():
        raise CheckpointError("the network's activations are not numbers; take an older checkpoint as `checkpoints`")
    return features_ND


def _stream_split(split: Split, what: str, device: torch.device, quiet: bool) -> Iterator[Batch]:
    total = len(split.catalog.keys)
    return with_progress(split.data.validation(BatchSlice(), None, device), total, what, quiet=quiet)
