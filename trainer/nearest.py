"""Which samples a network finds most like others: exact search by the last hidden layer, over a stream of batches.

The 4096 activations that feed the classes (section 6.1, figure 4), in test mode, are compared by Euclidean distance.
The samples stream by; what is held of them is a batch and the nearest so far.

Shape legend: N = images of a batch, Q = queries, D = activations (4096), k = how many nearest are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from pipeline.batch import Batch

Features = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def features_of(features: Features, batches: Iterable[Batch], ids: list[int]) -> torch.Tensor:
    """The features of these samples, float32 (Q, D), in the order of ``ids``; ``batches`` is their split.

    The batches are taken until all have come, whole, as in ``nearest``: a sample's features are the same bits in both.
    Raises ValueError if one does not come.
    """
    wanted, found = set(ids), dict[int, torch.Tensor]()
    for batch in batches:
        rows = [(n, i) for n, i in enumerate(batch.ids_N.tolist()) if i in wanted]
        if rows:
            said = features(batch.images_NCHW)
            found.update({i: said[n].clone() for n, i in rows})
        if len(found) == len(wanted):
            break
    missing = sorted(wanted - set(found))
    if missing:
        raise ValueError(f"samples {missing} did not come")
    return torch.stack([found[i] for i in ids])


@torch.no_grad()
def nearest(
    features: Features, batches: Iterable[Batch], queries_QD: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and distances of the ``count`` samples nearest to each query, nearest first: int64 and float64 (Q, k).

    Every sample of ``batches`` is compared (k is less than ``count`` if there are fewer); of equally distant ones the
    lower id comes first. Distances are summed from differences in float64, so that of a sample to itself is 0.
    """
    queries = queries_QD.double()
    ids = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    distances = torch.zeros(len(queries), 0, dtype=torch.float64, device=queries.device)
    for batch in batches:
        real = batch.ids_N >= 0
        said = features(batch.images_NCHW)[real].double()
        here = torch.cdist(queries, said, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.cat([distances, here], 1)
        ids = torch.cat([ids, batch.ids_N[real].expand(len(queries), -1)], 1)
        ids, distances = _least(ids, distances, count)
    return ids, distances


def _least(ids: torch.Tensor, distances: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    by_id = ids.argsort(dim=1)
    ids, distances = ids.gather(1, by_id), distances.gather(1, by_id)
    order = distances.argsort(dim=1, stable=True)[:, :count]
    return ids.gather(1, order), distances.gather(1, order)
