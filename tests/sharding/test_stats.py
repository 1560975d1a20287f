"""Exact statistics: merging in any order gives the same bits, and they are what NumPy and LAPACK say."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.core.errors import DatasetError
from alexstream.sharding import stats as statistics
from alexstream.sharding.stats import PixelSums, rgb_pca, summarize

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
    assert summarize(merged, "d") == summarize(whole, "d")
    assert np.array_equal(merged.mean_image(), whole.mean_image())


def test_statistics_equal_a_float64_reference():
    stats = summarize(sums_of(IMAGES), "d")
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
        summarize(PixelSums(8), "d")


# --- images of the sizes that are stored ----------------------------------------------------------------------------


def coloured(size, seed, count):
    """Images whose channels are correlated in a way that changes from the top to the bottom."""
    rng = np.random.default_rng(seed)
    common = rng.integers(0, 200, (count, size, size, 1))
    own = rng.integers(0, 56, (count, size, size, 3)) * np.array([1.0, 0.5, 0.1])
    rows = np.linspace(0, 1, size)[None, :, None, None]
    return (common * np.array([0.9, 0.4, 0.2]) * (1 - rows) + own + rows * np.array([0, 40, 90])).astype(np.uint8)


def exact(images):
    """Totals, products and covariance of all pixels, by Python's integers and fractions."""
    channels = [images[..., c].reshape(-1).astype(np.int64) for c in range(3)]
    count, totals = channels[0].size, [int(channel.sum()) for channel in channels]
    products = [[int(np.dot(a, b)) for b in channels] for a in channels]
    covariance = [
        [Fraction(products[i][j], count) - Fraction(totals[i], count) * Fraction(totals[j], count) for j in range(3)]
        for i in range(3)
    ]
    return count, totals, products, covariance


@pytest.mark.parametrize("size", [256, 512, 129])
def test_statistics_of_stored_sizes_are_those_of_every_pixel(size):
    images = coloured(size, seed=size, count=3)
    sums = PixelSums(size)
    for image in images:
        sums.add(image)
    stats = summarize(sums, "d")
    count, totals, products, covariance = exact(images)
    assert (stats.num_images, stats.num_pixels) == (3, count)
    assert list(stats.rgb_sums) == totals and list(map(list, stats.rgb_products)) == products
    assert stats.mean_rgb_255 == tuple(total / count for total in totals)
    assert [[float(entry) for entry in row] for row in covariance] == list(map(list, stats.covariance_255))
    np.testing.assert_allclose(stats.covariance_255, np.cov(images.reshape(-1, 3).T, bias=True), rtol=1e-9)
    assert np.array_equal(sums.mean_image(), images.astype(np.int64).sum(0) / 3)
    values, vectors = np.linalg.eigh(np.cov(images.reshape(-1, 3).T, bias=True))
    np.testing.assert_allclose(stats.eigenvalues_255, values[::-1], rtol=1e-9)
    np.testing.assert_allclose(stats.eigenvalues_01, values[::-1] / 255**2, rtol=1e-9)
    assert np.abs(np.array(stats.eigenvectors) * vectors[:, ::-1]).sum(0) == pytest.approx([1, 1, 1], rel=1e-3)
    for axis, value in zip(np.array(stats.eigenvectors).T, values[::-1], strict=True):
        residual = np.array(stats.covariance_255) @ axis - value * axis
        assert np.abs(residual).max() < 1e-9 * values[-1]


@pytest.mark.parametrize("size", [256, 512])
def test_no_pixel_of_an_image_is_passed_over(size):
    """Coloured pixels in a black image, one after the other: what one adds is its colour squared."""
    sums, colour = PixelSums(size), (255, 3, 40)
    for number, place in enumerate([(0, 0), (64, 0), (63, size - 1), (size // 2, 7), (size - 1, size - 1)], 1):
        image = np.zeros((size, size, 3), np.uint8)
        image[place] = colour
        sums.add(image)
        assert sums.product_CC.tolist() == [[number * a * b for b in colour] for a in colour]
        assert sums.sum_HWC[place].tolist() == list(colour)


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_white_images_do_not_overflow(size):
    sums = PixelSums(size)
    for _ in range(2):
        sums.add(np.full((size, size, 3), 255, np.uint8))
    stats = summarize(sums, "d")
    assert stats.rgb_products == ((2 * size**2 * 255**2,) * 3,) * 3
    assert stats.rgb_sums == (2 * size**2 * 255,) * 3
    assert stats.mean_rgb_255 == (255.0,) * 3 and stats.covariance_255 == ((0.0,) * 3,) * 3
    assert stats.eigenvalues_255 == (0.0, 0.0, 0.0)


def test_a_known_covariance_is_found():
    """Colours at ±10 along one axis, ±5 and ±1 along the two others: the variances are 100, 25 and 1."""
    axes = np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    colours = [128 + s * r * axis for axis, r in zip(axes, (10, 5, 1), strict=True) for s in (-1, 1)]
    image = np.resize(np.rint(np.array(colours)).astype(np.uint8), (256 * 256 - 4, 3))
    image = np.concatenate([image, np.full((4, 3), 128, np.uint8)]).reshape(256, 256, 3)
    sums = PixelSums(256)
    sums.add(image)
    stats = summarize(sums, "d")
    share = (256 * 256 - 4) / 3 / 256**2
    np.testing.assert_allclose(stats.eigenvalues_255, np.array([100, 25, 1]) * share, rtol=1e-10)
    np.testing.assert_allclose(np.array(stats.eigenvectors).T, [[0.6, 0.8, 0], [0.8, -0.6, 0], [0, 0, 1]], atol=1e-9)


def test_eigenvalues_are_right_to_fifty_digits():
    """Three roots of a polynomial with decimal coefficients, by Newton's method: nothing of a float takes part."""
    with localcontext() as context:
        context.prec = 50
        stats = summarize(sums_of(IMAGES), "d")
        a = [[Decimal(entry.numerator) / Decimal(entry.denominator) for entry in row] for row in exact(IMAGES)[3]]
        trace = a[0][0] + a[1][1] + a[2][2]
        minors = sum(a[i][i] * a[j][j] - a[i][j] ** 2 for i, j in ((0, 1), (0, 2), (1, 2)))
        determinant = (
            a[0][0] * (a[1][1] * a[2][2] - a[1][2] ** 2)
            - a[0][1] * (a[0][1] * a[2][2] - a[1][2] * a[0][2])
            + a[0][2] * (a[0][1] * a[1][2] - a[1][1] * a[0][2])
        )
        for value in stats.eigenvalues_255:
            root = Decimal(value)
            for _ in range(6):
                slope = 3 * root**2 - 2 * trace * root + minors
                root -= (root**3 - trace * root**2 + minors * root - determinant) / slope
            assert abs(root - Decimal(value)) < Decimal("1e-12") * Decimal(stats.eigenvalues_255[0])


@pytest.mark.parametrize("limit", [1, 3, 4])
def test_sums_of_32_bits_are_carried_over_before_they_overflow(monkeypatch, limit):
    """By default after 2^24 images of at most 255: here after a few, by which the sums must not change."""
    monkeypatch.setattr(statistics, "RECENT_IMAGES", limit)
    sums, most = PixelSums(8), 0
    for image in IMAGES:
        sums.add(image)
        most = max(most, int(sums._recent_HWC.max()))
    assert most <= limit * 255
    assert np.array_equal(sums.sum_HWC, IMAGES.astype(np.int64).sum(0))
    assert summarize(sums, "d") == summarize(sums_of(IMAGES), "d")


def test_as_many_images_as_are_summed_in_32_bits_fit_there():
    assert statistics.RECENT_IMAGES * 255 < 2**32


def test_the_sign_goes_by_magnitude():
    """The axis (−0.9, 0.3, 0.3) of the greatest variance is turned, though its largest entry is positive."""
    for axis in ((-0.9, 0.3, 0.3), (0.3, -0.9, 0.3), (0.3, 0.3, -0.9)):
        unit = np.array(axis) / np.linalg.norm(axis)
        _, vectors = rgb_pca((9 * np.outer(unit, unit) + np.eye(3)).tolist())
        np.testing.assert_allclose(np.array(vectors)[:, 0], -unit, atol=1e-12)


def test_of_equal_magnitudes_the_first_entry_is_positive():
    _, vectors = rgb_pca([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    np.testing.assert_allclose(np.array(vectors).T, [[0, 0, 1], [0.5**0.5, -(0.5**0.5), 0], [0.5**0.5, 0.5**0.5, 0]])


def test_eigenvalues_are_in_descending_order_with_their_vectors():
    values, vectors = rgb_pca([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
    assert values == [3.0, 2.0, 1.0]
    assert np.array(vectors).T.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_sums_as_numbers_are_added_to_what_is_there():
    part = sums_of(IMAGES[:5])
    part.add_sums(7, IMAGES[5:].astype(np.int64).sum(0), sums_of(IMAGES[5:]).product_CC)
    assert part.num_images == 12 and summarize(part, "d") == summarize(sums_of(IMAGES), "d")
