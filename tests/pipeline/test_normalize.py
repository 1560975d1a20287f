"""The finish against the recipes' words, in NumPy: which mean is subtracted where, in which order of channels."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from alexstream.pipeline.batch import CropBatch
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.lighting import lighting_divisor, offset_matrix
from alexstream.pipeline.transforms.mean import MeanPlanes
from alexstream.pipeline.transforms.normalize import MAX_BUFFERS, BufferPool, Normalizer
from alexstream.pipeline.transforms.reference import reference_decode
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from tests.support.known_statistics import AXES, STATS, VARIANCES

CPU = torch.device("cpu")
COLOUR = (123.5, 116.25, 103.75)
COLOURED = replace(STATS, mean_rgb_255=COLOUR)
CORNERS = [(0, 0, 0), (3, 29, 0), (3, 29, 1), (32, 0, 1), (16, 16, 1)]  # row, column, mirrored
RGB = np.array([[0, 0, 0], [1.5, -2.25, 3.125], [-7.0, 0.3, 0.1], [0.5, 0.5, 0.5], [-1, -2, -3]], np.float32)


def mean_image(side=256):
    """Another value in every place and channel, neither symmetric nor the same by rows and columns."""
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    return y * 0.37 + x * 0.11 + c * 31.0 + (x * y % 7) * 0.5


def crops():
    pixels = np.random.default_rng(3).integers(0, 256, (len(CORNERS), 3, 224, 224)).astype(np.uint8)
    places = np.array(CORNERS, np.int32)
    tensors = (pixels, np.arange(5), np.arange(5), places[:, :2].copy(), places[:, 2].copy(), RGB)
    return CropBatch.from_tensors(tuple(map(torch.from_numpy, tensors)))


def subtracted(kind, corner):
    """What the documents say is subtracted, (C, H, W) in float32."""
    y, x, flip = corner
    window = {
        "window": mean_image()[y : y + 224, x : x + 224][:, :: -1 if flip else 1],
        "centre": mean_image()[16:240, 16:240],
        "colour": np.broadcast_to(np.array(COLOUR), (224, 224, 3)),
    }[kind]
    return window.astype(np.float32).transpose(2, 0, 1)


@pytest.mark.parametrize("form", ["normalize_on_cpu", "normalize_on_gpu"])
@pytest.mark.parametrize("divisors", [(1, 1, 1), (1.1, 1.1, 1.1), (20, 30, 1)])
@pytest.mark.parametrize("kind", ["window", "centre", "colour"])
def test_crop_minus_mean_plus_offset_divided_bit_for_bit(kind, divisors, form):
    divide = np.array(divisors, np.float32)
    finish = Normalizer(MeanPlanes.from_image(kind, mean_image(), COLOURED), CPU, divide)
    batch = crops()
    found = getattr(finish, form)(batch).numpy()
    for i, corner in enumerate(CORNERS):
        crop = batch.crops_NCHW[i].numpy().astype(np.float32)
        expected = ((crop - subtracted(kind, corner)) + RGB[i][:, None, None]) / divide[:, None, None]
        assert np.array_equal(found[i], expected), corner


def test_of_two_middles_the_centre_is_the_upper_left_one():
    finish = Normalizer(MeanPlanes.from_image("centre", mean_image(229), COLOURED), CPU)
    expected = mean_image(229)[2:226, 2:226].astype(np.float32).transpose(2, 0, 1)
    for form in (finish.normalize_on_cpu, finish.normalize_on_gpu):
        assert np.array_equal(form(crops())[0].numpy(), crops().crops_NCHW[0].numpy().astype(np.float32) - expected)


def test_a_finished_batch_keeps_labels_and_ids():
    batch = crops()
    done = Normalizer(MeanPlanes.from_image("window", mean_image(), COLOURED), CPU)(batch)
    assert torch.equal(done.labels_N, batch.labels_N) and torch.equal(done.ids_N, batch.ids_N)
    assert done.images_NCHW.dtype == torch.float32


@pytest.mark.parametrize("recipe", ["paper", "original", "inception"])
def test_validation_subtracts_and_divides_as_each_recipe_says(sample_shards, recipe):
    """On a set whose channels differ, read from its files: nothing of the code under test takes part."""
    folder = sample_shards / "train"
    opened = open_dataset(folder)
    stats = load_stats(folder, opened.manifest)
    mean, colour = load_mean_image(folder, stats), np.array(stats.rgb_sums) / stats.num_pixels
    assert np.abs(np.diff(colour)).min() > 1, "the channels of the sample set differ"
    minus, spread = mean[16:240, 16:240], np.ones(3)
    if recipe == "inception":
        products = np.diag(np.array(stats.rgb_products, np.float64)) / stats.num_pixels
        minus, spread = colour, np.sqrt(products - colour**2)
    data = ShardedData(train=folder, val=folder, batch_size=8, augmentation=recipe)
    batch = next(data.validation())
    for i, sample in enumerate(batch.ids_N.tolist()):
        pixels = reference_decode(opened.stored(sample).tobytes())[16:240, 16:240]
        expected = ((pixels - minus) / spread).transpose(2, 0, 1)
        assert np.abs(batch.images_NCHW[i].numpy() - expected).max() <= 2**-15


def test_inception_training_takes_its_own_mean_colour_and_spread(sample_shards):
    """The same boxes without the recipe's mean and divisor, put back by hand: whole numbers on 0..255 again."""
    folder = sample_shards / "train"
    stats = load_stats(folder, open_dataset(folder).manifest)
    spread, colour = np.sqrt(np.diag(np.array(stats.covariance_255))), np.array(stats.mean_rgb_255)
    data = ShardedData(train=folder, batch_size=16, augmentation="inception-no-lighting")
    for batch in islice(data.training(), 2):
        pixels = batch.images_NCHW.numpy().transpose(0, 2, 3, 1) * spread + colour
        assert np.abs(pixels - np.rint(pixels)).max() < 1e-4 and pixels.min() > -0.01 and pixels.max() < 255.01


# --- lighting -------------------------------------------------------------------------------------------------------


def test_the_offset_s_matrix_is_axis_times_scale():
    """Columns: 255 · 0.1 · λ on 0..1 for ``paper``, 0.1 · √λ on 0..255 for ``original``."""
    for k, variance in enumerate(VARIANCES):
        axis = np.array([row[k] for row in AXES])
        np.testing.assert_allclose(offset_matrix(STATS, "paper")[:, k], axis * 25.5 * variance / 65025, rtol=1e-14)
        np.testing.assert_allclose(offset_matrix(STATS, "original")[:, k], axis * 0.1 * variance**0.5, rtol=1e-14)
    assert offset_matrix(STATS, "none").tolist() == [[0.0] * 3] * 3
    assert (lighting_divisor("original"), lighting_divisor("paper"), lighting_divisor("none")) == (1.1, 1.0, 1.0)


def test_a_grey_set_has_finite_lighting():
    """Rounding leaves an eigenvalue of about −1e-12 where the channels are equal: its square root is no number."""
    grey = replace(STATS, eigenvalues_255=(9000.0, 0.0, -1e-12), eigenvalues_01=(9000 / 65025, 0.0, -1e-12 / 65025))
    for lighting in ("paper", "original"):
        assert np.isfinite(offset_matrix(grey, lighting)).all()
    assert offset_matrix(grey, "original")[:, 2].tolist() == [0.0] * 3


def test_an_unknown_lighting_is_refused():
    with pytest.raises(ValueError, match="received 'disco', expected one of paper, original, none"):
        offset_matrix(STATS, "disco")


# --- buffers --------------------------------------------------------------------------------------------------------


def test_a_buffer_is_lent_to_one_at_a_time_and_used_again():
    buffers = BufferPool()
    first, second = buffers.take((2, 3)), buffers.take((2, 3))
    assert not np.shares_memory(first, second)
    assert first.ctypes.data % 64 == 0 and second.ctypes.data % 64 == 0
    assert first.dtype == np.float32 and first.shape == (2, 3)
    place = first.ctypes.data
    view = torch.from_numpy(first)[1]
    del first
    assert not np.shares_memory(buffers.take((2, 3)), view.numpy()), "a view of it is still held"
    del view
    again = [buffers.take((2, 3)) for _ in range(3)]
    assert place in [one.ctypes.data for one in again]
    assert buffers.take((4, 3)).shape == (4, 3)


def test_no_more_buffers_are_kept_than_are_useful():
    buffers = BufferPool()
    held = [buffers.take((2,)) for _ in range(3 * MAX_BUFFERS)]
    assert len(buffers._lent) == MAX_BUFFERS and len({one.ctypes.data for one in held}) == 3 * MAX_BUFFERS


def test_ten_views_are_cut_where_the_paper_says():
    """The four corners, then the centre, then the same mirrored; each minus the mean at its place."""
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 256, 256)).astype(np.uint8)
    zero = np.zeros((1, 2), np.int32), np.zeros(1, np.int32), np.zeros((1, 3), np.float32)
    whole = CropBatch.from_tensors(tuple(map(torch.from_numpy, (pixels, np.array([4]), np.array([9]), *zero))))
    views = Normalizer(MeanPlanes.from_image("window", mean_image(), COLOURED), CPU).normalize_views(whole)
    assert views.labels_N.tolist() == [4] and views.ids_N.tolist() == [9]
    plain = pixels[0].astype(np.float32) - mean_image().astype(np.float32).transpose(2, 0, 1)
    for k, (y, x) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]):
        window = plain[:, y : y + 224, x : x + 224]
        assert np.array_equal(views.images_NCHW[0, k].numpy(), window)
        assert np.array_equal(views.images_NCHW[0, 5 + k].numpy(), window[:, :, ::-1])
