"""Nearest training images of some queries, for people: who is asked about, who is found, as text, JSON and picture.

``find`` puts it together for ``cli.py neighbours``; the search is ``nearest``'s, the drawing ``pictures``'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import Batch, Part, TrainingData, no_exchange
from trainer.choice import chosen
from trainer.errors import TrainError
from trainer.model import AlexNet
from trainer.nearest import features_of, nearest
from trainer.pictures import Captioned
from trainer.progress import shown


class Catalog(Protocol):
    """A split's samples by id: what they are called and what they look like (``sharding.lookup.Lookup``)."""

    @property
    def keys(self) -> NDArray[Any]:
        """Keys by sample id."""
        ...

    def find(self, key: str) -> int | None:
        """The id of the sample with this key, if there is one."""
        ...

    def label(self, sample: int) -> int:
        """A sample's label."""
        ...

    def pixels(self, sample: int) -> NDArray[np.uint8]:
        """The standard view of a sample, uint8 (S, S, 3)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split by its catalog, and ``data``, whose validation is one pass over it."""

    name: str
    catalog: Catalog
    data: TrainingData


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of a split; ``class_name`` in words, ``distance`` from the query that it was found for."""

    split: Split
    sample: int
    class_name: str
    distance: float = 0.0

    @property
    def key(self) -> str:
        """Its key."""
        return str(self.split.catalog.keys[self.sample])

    @property
    def label(self) -> int:
        """The number of its class."""
        return self.split.catalog.label(self.sample)

    def json(self) -> dict[str, Any]:
        """Where it is and what it shows."""
        return {"split": self.split.name, "key": self.key, "label": self.label, "class": self.class_name}

    def captioned(self, below: str) -> Captioned:
        """Its standard view with its class and another line below it."""
        return Captioned(pixels_SSC=self.split.catalog.pixels(self.sample), lines=(self.class_name, below))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A query and the training images nearest to it, nearest first."""

    query: Sample
    nearest: tuple[Sample, ...]

    def lines(self) -> str:
        """For a person: the query, then a line for each image found, with its distance."""
        rows = [f"{self.query.split.name} {self.query.key}  {self.query.class_name} ({self.query.label})"]
        rows += [f"  {one.distance:10.4f}  {one.key}  {one.class_name} ({one.label})" for one in self.nearest]
        return "\n".join(rows)

    def json(self) -> dict[str, Any]:
        """The same as JSON values."""
        found = [{**one.json(), "distance": one.distance} for one in self.nearest]
        return {"query": self.query.json(), "nearest": found}

    def pictures(self) -> tuple[Captioned, list[Captioned]]:
        """What ``pictures.save_neighbours`` draws in a row."""
        return self.query.captioned(self.query.key), [one.captioned(f"{one.distance:.2f}") for one in self.nearest]


def find(
    model: AlexNet,
    training: Split,
    queries: Sequence[tuple[Split, int]],
    class_names: Sequence[str],
    count: int,
    device: torch.device,
    *,
    quiet: bool = False,
) -> list[Found]:
    """The ``count`` images of the training split that are nearest to each query, by centre crops.

    The queries' splits are passed over as far as the last query, the training split once, or once more.
    """
    queries_QD = _features(model, queries, device, quiet)
    ids, distances = nearest(model.features, _batches(training, "neighbours", device, quiet), queries_QD, count)

    def sample(split: Split, i: int, distance: float = 0.0) -> Sample:
        return Sample(split=split, sample=i, class_name=class_names[split.catalog.label(i)], distance=distance)

    return [
        Found(query=sample(*query), nearest=tuple(sample(training, *one) for one in zip(*pair, strict=True)))
        for query, *pair in zip(queries, ids.tolist(), distances.tolist(), strict=True)
    ]


def choose(splits: Sequence[Split], keys: Sequence[str], count: int, seed: int) -> list[tuple[Split, int]]:
    """Queries by their keys, looked for in one split after the other; else ``count`` samples of the first split.

    Raises TrainError for a key that is in none.
    """
    if not keys:
        ids = chosen(len(splits[0].catalog.keys), count, f"queries:{seed}")
        return [(splits[0], i) for i in ids]
    return [_by_key(splits, key) for key in keys]


def _by_key(splits: Sequence[Split], key: str) -> tuple[Split, int]:
    for split in splits:
        found = split.catalog.find(key)
        if found is not None:
            return split, found
    names = " or ".join(split.name for split in splits)
    raise TrainError(
        f"--key: received {key!r}, which is no sample of {names}; expected a key such as {splits[0].catalog.keys[0]!r}"
    )


def _features(model: AlexNet, queries: Sequence[tuple[Split, int]], device: torch.device, quiet: bool) -> torch.Tensor:
    """Float32 (Q, D), in the order of the queries."""
    said: dict[int, torch.Tensor] = {}
    for split in {split.name: split for split, _ in queries}.values():
        places = [place for place, (its, _) in enumerate(queries) if its is split]
        ids = [queries[place][1] for place in places]
        features = features_of(model.features, _batches(split, "queries", device, quiet), ids)
        said.update(zip(places, features, strict=True))
    return torch.stack([said[place] for place in range(len(queries))])


def _batches(split: Split, what: str, device: torch.device, quiet: bool) -> Iterator[Batch]:
    total = len(split.catalog.keys)
    return shown(split.data.validation(Part(), no_exchange, device), total, what, quiet=quiet)
