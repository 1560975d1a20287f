"""Exact nearest-neighbor search by the activations of the last hidden layer, over a stream of batches.

Compares the activations of the last hidden layer (section 6.1, figure 4), in test mode, by Euclidean distance.
Holds one batch and the nearest samples so far in memory.

Shape legend: N = images of a batch, Q = queries, D = activations (4096 at width 1), k = nearest samples per query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch

from alexstream.pipeline.batch import Batch

FeatureFunction = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def collect_features(features: FeatureFunction, batches: Iterable[Batch], ids: list[int]) -> torch.Tensor:
    """Compute the features of the samples ``ids`` of a split's ``batches``: float32 (Q, D), in the order of ``ids``.

    Reads batches until all samples are found. Each batch goes through the network whole, as in ``find_nearest``, so
    that a sample's features are the same bits in both. Raises ValueError if a sample is not in the batches.
    """
    wanted, found = set(ids), dict[int, torch.Tensor]()
    for batch in batches:
        rows = [(n, i) for n, i in enumerate(batch.ids_N.tolist()) if i in wanted]
        if rows:
            features_ND = features(batch.images_NCHW)
            found.update({i: features_ND[n].clone() for n, i in rows})
        if len(found) == len(wanted):
            break
    missing = sorted(wanted - set(found))
    if missing:
        raise ValueError(f"samples {missing} did not come")
    return torch.stack([found[i] for i in ids])


@torch.no_grad()
def find_nearest(
    features: FeatureFunction, batches: Iterable[Batch], queries_QD: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the ``count`` samples nearest to each query: their ids, int64, and distances, float64, both (Q, k).

    Sorted by distance, then by id; k < ``count`` if ``batches`` hold fewer samples. Distances are computed from
    differences in float64, so that a sample's distance to itself is exactly 0.
    """
    queries = queries_QD.double()
    ids = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    distances = torch.zeros(len(queries), 0, dtype=torch.float64, device=queries.device)
    for batch in batches:
        real = batch.ids_N >= 0
        features_ND = features(batch.images_NCHW)[real].double()
        here = torch.cdist(queries, features_ND, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.cat([distances, here], 1)
        ids = torch.cat([ids, batch.ids_N[real].expand(len(queries), -1)], 1)
        ids, distances = _keep_nearest(ids, distances, count)
    return ids, distances


def _keep_nearest(ids: torch.Tensor, distances: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    by_id = ids.argsort(dim=1)
    ids, distances = ids.gather(1, by_id), distances.gather(1, by_id)
    order = distances.argsort(dim=1, stable=True)[:, :count]
    return ids.gather(1, order), distances.gather(1, order)


def choose_by_hash(num_samples: int, count: int, seed: str) -> list[int]:
    """Choose ``count`` of the ids 0 to ``num_samples`` - 1 (all, if there are fewer), in random order.

    The same ones on every machine and in every version of every library: those with the smallest SHA-256 of ``seed``
    and id, so that a larger ``count`` extends the choice of a smaller one.
    """
    return sorted(range(num_samples), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())[:count]
