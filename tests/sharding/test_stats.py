"""Exact statistics: merging in any order gives the same bits, and they are what NumPy and LAPACK say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import DatasetError
from sharding.stats import PixelSums, rgb_pca, summarise

IMAGES = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 3)).astype(np.uint8)


def sums_of(images):
    sums = PixelSums(8)
    for image in images:
        sums.add(image)
    return sums


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.permutations(range(4)))
def test_any_partition_merged_in_any_order_gives_the_same_statistics(part_of, order):
    parts = [sums_of([im for im, part in zip(IMAGES, part_of, strict=True) if part == p]) for p in range(4)]
    merged = PixelSums(8)
    for p in order:
        merged.merge(parts[p])
    whole = sums_of(IMAGES)
    assert summarise(merged, "d") == summarise(whole, "d")
    assert np.array_equal(merged.mean_image(), whole.mean_image())


def test_statistics_equal_a_float64_reference():
    stats = summarise(sums_of(IMAGES), "d")
    pixels = IMAGES.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(sums_of(IMAGES).mean_image(), IMAGES.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.mean_rgb_255, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.covariance_255, np.cov(pixels.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(np.array(stats.eigenvalues_01) * 255**2, stats.eigenvalues_255, rtol=1e-14)
    assert stats.num_pixels == 12 * 64


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=9, max_size=9))
def test_eigenpairs_are_those_of_lapack(entries):
    root = np.array(entries).reshape(3, 3)
    matrix = root @ root.T
    values, vectors = (np.array(part) for part in rgb_pca(matrix.tolist()))
    size = max(np.abs(matrix).max(), 1e-300)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-12 * size)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-12 * size)
    assert list(values) == sorted(values, reverse=True)


def test_the_largest_entry_of_each_eigenvector_is_positive():
    _, vectors = rgb_pca([[3.0, 1.0, 0.5], [1.0, 2.0, 0.25], [0.5, 0.25, 1.0]])
    for column in np.array(vectors).T:
        assert column[np.abs(column).argmax()] > 0


def test_images_of_another_shape_or_type_are_refused():
    for image in (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            PixelSums(8).add(image)


def test_no_images_have_no_statistics():
    with pytest.raises(DatasetError):
        summarise(PixelSums(8), "d")
