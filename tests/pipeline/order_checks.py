"""Statistical checks of orders, in the manner of ``formula_checks``: each is an assertion at level ``LEVEL``.

``orders_EN``: one epoch a row, sample ids. Seeds are fixed, so the suite cannot flicker.
"""

from itertools import pairwise

import numpy as np
from scipy import stats

from tests.pipeline.formula_checks import LEVEL, check_uniform


def check_places(orders_EN):
    """Every sample comes equally often at every place.

    For E permutations of n, (n − 1)/E · Σ (count − E/n)² over the table of samples × places ~ χ²((n − 1)²).
    """
    num_epochs, n = orders_EN.shape
    counts = np.zeros((n, n))
    np.add.at(counts, (orders_EN, np.broadcast_to(np.arange(n), orders_EN.shape)), 1)
    statistic = (n - 1) / num_epochs * np.sum((counts - num_epochs / n) ** 2)
    p = stats.chi2.sf(statistic, (n - 1) ** 2)
    assert p > LEVEL, f"places are not equally likely: p = {p:.1e}"


def check_neighbours(orders_EN):
    """Neighbours of one epoch are neighbours in the next as often as chance has it.

    Each of the n − 1 pairs is so with probability 2/n; their number is nearly Poisson for large n.
    """
    num_epochs, n = orders_EN.shape
    pairs = [{frozenset(pair) for pair in pairwise(row.tolist())} for row in orders_EN]
    kept = sum(len(a & b) for a, b in pairwise(pairs))
    expected = (num_epochs - 1) * 2 * (n - 1) / n
    p = min(1.0, 2 * min(stats.poisson.sf(kept - 1, expected), stats.poisson.cdf(kept, expected)))
    assert p > LEVEL, f"{kept} pairs stay neighbours, chance has {expected:.0f}: p = {p:.1e}"


def check_whole_groups(orders_EN, shard_size, group_shards):
    """Between two borders of groups there are all samples of ``group_shards`` shards, and no others."""
    for row in orders_EN:
        for start in range(0, len(row), shard_size * group_shards):
            group = row[start : start + shard_size * group_shards]
            shards, counts = np.unique(group // shard_size, return_counts=True)
            assert (counts == shard_size).all(), f"a group holds parts of shards {shards.tolist()}"


def check_shards(orders_EN, shard_size, group_shards):
    """Every shard is in every group equally often, and any two shards are in one group as often as chance has it."""
    num_epochs, n = orders_EN.shape
    num_shards = n // shard_size
    group_of = np.argsort(orders_EN, axis=1)[:, ::shard_size] // (shard_size * group_shards)  # (epochs, shards)
    for shard in range(num_shards):
        check_uniform(group_of[:, shard], num_shards // group_shards)
    chance = (group_shards - 1) / (num_shards - 1)
    for a in range(num_shards):
        for b in range(a):
            together = int((group_of[:, a] == group_of[:, b]).sum())
            p = stats.binomtest(together, num_epochs, chance).pvalue
            assert p > LEVEL, f"shards {a} and {b} share a group {together} times of {num_epochs}: p = {p:.1e}"


def check_places_in_group(orders_EN, shard_size, group_shards):
    """Every sample comes equally often at every place of its group."""
    places_EN = np.argsort(orders_EN, axis=1) % (shard_size * group_shards)
    for sample in range(orders_EN.shape[1]):
        check_uniform(places_EN[:, sample], shard_size * group_shards)
