"""The augmentation's statistics are the paper's formula, measured on what the DALI stream puts out.

Lighting: 4,096 finished images of the sample set (64 images × 64 epochs), each compared with the same crop
finished without an offset. Crops and flips: 16,384 crops of cards whose pixels tell where they come from
(128 cards × 128 epochs). Then the same checks on deliberately broken formulas, sent through the same stream:
each must fail.
"""

from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
import torch

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.batch_plan import make_training_planner
from alexstream.pipeline.decode.dali import Engine, run_crop_graph
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.sampling.philox import sample_words
from alexstream.pipeline.transforms.augment import PAPER, Augmentation, Augmenter, Draws, uniform_below
from alexstream.pipeline.transforms.lighting import offset_matrix
from alexstream.pipeline.transforms.normalize import Normalizer
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from tests.pipeline.formula_checks import (
    check_constant,
    check_covariance,
    check_fair,
    check_independent,
    check_mean,
    check_normal,
    check_uniform,
    check_unrelated,
)

SEED, BATCH = 3, 64
CPU = torch.device("cpu")
POSITIONS = 33


def crops_of(data, augmenter, num_samples):
    """CropBatches of the real stream with any augmenter."""
    order = Order(num_samples=len(data), seed=SEED)
    steps = make_training_planner(data, augmenter, order, BATCH, BatchSlice())
    return islice(run_crop_graph(data, steps, Engine(batch_size=BATCH, num_threads=2), augmenter), num_samples // BATCH)


@dataclass
class Lit:
    """Lighting as measured: one offset a sample, in stream order and by (epoch, image)."""

    data: object
    preprocessing: Preprocessing
    finish: Normalizer

    def offsets(self, augmenter, num_samples):
        """Measured offsets (n, 3), and the same as (epochs, images, 3)."""
        offsets, ids = [], []
        for crops in crops_of(self.data, augmenter, num_samples):
            plain = replace(crops, rgb_N3=torch.zeros_like(crops.rgb_N3))
            difference = (self.finish(crops).images_NCHW - self.finish(plain).images_NCHW).numpy()
            # two float32 subtractions of numbers below 512: 2 × 2^-15
            check_constant(difference, tolerance=2**-14)
            offsets.append(difference.mean((2, 3), dtype=np.float64))
            ids.append(crops.ids_N.numpy())
        stream, num_images = np.concatenate(offsets), len(self.data)
        by_image = np.empty((num_samples // num_images, num_images, 3))
        epoch = np.arange(num_samples) // num_images
        by_image[epoch, np.concatenate(ids)] = stream
        return stream, by_image

    def augmenter(self, lighting="paper", **changes):
        """The right augmenter, or one with a changed field."""
        right = self.preprocessing.with_recipe(Augmentation(lighting=lighting)).make_augmenter(SEED, 256)
        return replace(right, **changes)

    def covariance(self, lighting="paper"):
        """The closed form, from the stored eigen-pairs, written out as docs and paper state it."""
        p = self.preprocessing.stats.eigenvectors_CC
        if lighting == "paper":
            return (255 * 0.1) ** 2 * p @ np.diag(np.square(self.preprocessing.stats.eigenvalues_01)) @ p.T
        return 0.01 * p @ np.diag(self.preprocessing.stats.eigenvalues_255) @ p.T


@pytest.fixture(scope="module")
def lit(sample_shards):
    data = open_dataset(sample_shards / "train")
    preprocessing = Preprocessing.from_folder(data.folder, data.manifest, PAPER)
    # 64 of the 67 samples, so that batches and epochs line up and every epoch is whole.
    data = replace(data, **{f: getattr(data, f)[:64] for f in ("shard_N", "offset_N", "size_N", "label_N")})
    return Lit(data, preprocessing, preprocessing.make_normalizer(CPU))


@pytest.fixture(scope="module")
def paper_offsets(lit):
    return lit.offsets(lit.augmenter(), 4096)


def test_lighting_covariance_is_the_closed_form(lit, paper_offsets):
    check_covariance(paper_offsets[0], lit.covariance())


def test_lighting_has_zero_mean(lit, paper_offsets):
    check_mean(paper_offsets[0], lit.covariance())


def test_lighting_is_normal(lit, paper_offsets):
    check_normal(paper_offsets[0], lit.covariance())


def test_lighting_of_one_image_says_nothing_about_its_next_epoch(paper_offsets):
    by_image = paper_offsets[1]
    check_unrelated(by_image[:-1].reshape(-1, 3), by_image[1:].reshape(-1, 3))


def test_lighting_of_one_image_says_nothing_about_its_neighbours(paper_offsets):
    stream, by_image = paper_offsets
    check_unrelated(stream[:-1], stream[1:])
    check_unrelated(by_image[:, :-1].reshape(-1, 3), by_image[:, 1:].reshape(-1, 3))


def test_original_lighting_covariance_is_the_closed_form(lit):
    offsets, _ = lit.offsets(lit.augmenter("original"), 2048)
    check_covariance(offsets, lit.covariance("original"))


def test_lighting_none_adds_nothing(lit):
    assert not lit.offsets(lit.augmenter("none"), BATCH)[0].any()


# --- broken lighting: each check can fail ---------------------------------------------------------------------------


def test_wrong_scale_is_caught(lit):
    offsets, _ = lit.offsets(lit.augmenter(matrix_CC=1.2 * lit.augmenter().matrix_CC), 1024)
    with pytest.raises(AssertionError, match="covariance"):
        check_covariance(offsets, lit.covariance())


@pytest.mark.parametrize(("claimed", "used"), [("paper", "original"), ("original", "paper")])
def test_eigenvalue_in_place_of_its_root_is_caught(lit, claimed, used):
    """``paper`` multiplies by λ, ``original`` by √λ: each formula fails the other's test."""
    offsets, _ = lit.offsets(lit.augmenter(matrix_CC=offset_matrix(lit.preprocessing.stats, used)), 1024)
    with pytest.raises(AssertionError, match="covariance"):
        check_covariance(offsets, lit.covariance(claimed))


def test_eigenvectors_as_rows_are_caught(lit):
    """P and Pᵀ are both orthonormal; only one has the axes as columns."""
    values = np.array(lit.preprocessing.stats.eigenvalues_01)
    offsets, _ = lit.offsets(lit.augmenter(matrix_CC=25.5 * lit.preprocessing.stats.eigenvectors_CC.T * values), 1024)
    with pytest.raises(AssertionError, match="covariance"):
        check_covariance(offsets, lit.covariance())


class AlphaFrozenOverEpochs(Augmenter):
    """Broken: an image keeps its α for ever."""

    def draw(self, epochs, ids, places=None):
        draws = Augmenter.draw(self, np.zeros_like(epochs), ids)
        return replace(Augmenter.draw(self, epochs, ids), rgb_N3=draws.rgb_N3)


class AlphaSharedByBatch(Augmenter):
    """Broken: one α for all images of a batch."""

    def draw(self, epochs, ids, places=None):
        draws = Augmenter.draw(self, epochs, ids)
        return replace(draws, rgb_N3=np.broadcast_to(draws.rgb_N3[:1], draws.rgb_N3.shape).copy())


class AlphaUniform(Augmenter):
    """Broken: α of the right variance, but not Gaussian."""

    def draw(self, epochs, ids, places=None):
        words = sample_words(self.seed, epochs, ids, 9)[:, :3]
        z = (words / 2.0**32 - 0.5) * np.sqrt(12)
        return replace(Augmenter.draw(self, epochs, ids), rgb_N3=(z @ self.matrix_CC.T).astype(np.float32))


class AlphaPositive(Augmenter):
    """Broken: only ever brightens."""

    def draw(self, epochs, ids, places=None):
        draws = Augmenter.draw(self, epochs, ids)
        return replace(draws, rgb_N3=np.abs(draws.rgb_N3))


def broken(kind, right):
    fields = ("augmentation", "seed", "margin_px", "matrix_CC")
    return kind(**{name: getattr(right, name) for name in fields})


def test_alpha_not_redrawn_between_epochs_is_caught(lit):
    _, by_image = lit.offsets(broken(AlphaFrozenOverEpochs, lit.augmenter()), 1024)
    with pytest.raises(AssertionError, match="related"):
        check_unrelated(by_image[:-1].reshape(-1, 3), by_image[1:].reshape(-1, 3))


def test_alpha_not_redrawn_between_images_is_caught(lit):
    stream, _ = lit.offsets(broken(AlphaSharedByBatch, lit.augmenter()), 1024)
    with pytest.raises(AssertionError, match="related"):
        check_unrelated(stream[:-1], stream[1:])


def test_alpha_of_another_distribution_is_caught(lit):
    stream, _ = lit.offsets(broken(AlphaUniform, lit.augmenter()), 2048)
    check_covariance(stream, lit.covariance())  # its covariance is right: only its shape is wrong
    with pytest.raises(AssertionError, match="normal"):
        check_normal(stream, lit.covariance())


def test_alpha_with_a_mean_is_caught(lit):
    stream, _ = lit.offsets(broken(AlphaPositive, lit.augmenter()), 512)
    with pytest.raises(AssertionError, match="mean"):
        check_mean(stream, lit.covariance())


def test_an_offset_that_varies_over_pixels_is_caught(lit):
    crops = next(crops_of(lit.data, lit.augmenter(), BATCH))
    noisy = lit.finish(crops).images_NCHW - lit.finish(replace(crops, rgb_N3=0 * crops.rgb_N3)).images_NCHW
    noisy[5, 1, 100, 100] += 0.01
    with pytest.raises(AssertionError, match="varies"):
        check_constant(noisy.numpy(), tolerance=2**-14)


# --- crops and flips ------------------------------------------------------------------------------------------------


@dataclass
class Places:
    """Where the crops of the cards came from, read from the pixels that DALI put out."""

    y: np.ndarray
    x: np.ndarray
    flip: np.ndarray
    by_image: np.ndarray  # (epochs, cards, 3): y, x, flip


def read_places(folder, augmenter, num_samples):
    data = open_dataset(folder)
    rows, ids = [], []
    for batch in crops_of(data, augmenter, num_samples):
        red, green = (batch.crops_NCHW[:, c].to(torch.float32) for c in (0, 1))
        # red = column, green = row: the mean of a crop is its corner + 111.5
        y, x = (t.mean((1, 2)).numpy() - 111.5 for t in (green, red))
        assert max(abs(v - v.round()).max() for v in (y, x)) < 0.3, "the pixels do not tell the place"
        flip = (red[..., :112].mean((1, 2)) > red[..., 112:].mean((1, 2))).numpy()
        rows.append(np.stack([y.round(), x.round(), flip], axis=1).astype(int))
        ids.append(batch.ids_N.numpy())
    stream = np.concatenate(rows)
    by_image = np.empty((num_samples // len(data), len(data), 3), int)
    by_image[np.arange(num_samples) // len(data), np.concatenate(ids)] = stream
    return Places(*stream.T, by_image)


@pytest.fixture(scope="module")
def card_augmenter(position_cards):
    data = open_dataset(position_cards)
    return Preprocessing.from_folder(data.folder, data.manifest, PAPER).make_augmenter(SEED, 256)


@pytest.fixture(scope="module")
def places(position_cards, card_augmenter):
    return read_places(position_cards, card_augmenter, 16384)


def test_crop_rows_and_columns_are_uniform_over_33_positions(places):
    check_uniform(places.y, POSITIONS)
    check_uniform(places.x, POSITIONS)


def test_all_1089_crop_positions_are_equally_likely(places):
    check_uniform(places.y * POSITIONS + places.x, POSITIONS**2)


def test_crop_row_and_column_are_independent(places):
    check_independent(places.y, places.x)


def test_flips_are_fair(places):
    check_fair(places.flip)


def test_flips_are_independent_of_crops(places):
    check_independent(places.flip, places.y)
    check_independent(places.flip, places.x)


@pytest.mark.parametrize("value", [0, 1, 2], ids=["row", "column", "flip"])
def test_crops_and_flips_of_one_image_say_nothing_about_its_next_epoch(places, value):
    draws = places.by_image[..., value]
    check_independent(draws[:-1].ravel(), draws[1:].ravel())


@pytest.mark.parametrize("value", [0, 1, 2], ids=["row", "column", "flip"])
def test_crops_and_flips_of_one_image_say_nothing_about_its_neighbours(places, value):
    draws = places.by_image[..., value]
    check_independent(draws[:, :-1].ravel(), draws[:, 1:].ravel())


class EdgesAtHalfWeight(Augmenter):
    """Broken: round(32 u) instead of floor(33 u), what DALI's continuous ``crop_pos`` does."""

    def draw(self, epochs, ids, places=None):
        words = sample_words(self.seed, epochs, ids, 1)[:, :2]
        yx = np.rint(words / 2.0**32 * self.margin_px).astype(np.int32)
        return replace(Augmenter.draw(self, epochs, ids), yx_N2=yx)


class FlipsUnfair(Augmenter):
    """Broken: three of five are mirrored."""

    def draw(self, epochs, ids, places=None):
        words = sample_words(self.seed, epochs, ids, 1)
        return replace(Augmenter.draw(self, epochs, ids), flip_N=(uniform_below(words[:, 2], 5) < 3).astype(np.int32))


class FlipTiedToCrop(Augmenter):
    """Broken: fair, but decided by the crop's column."""

    def draw(self, epochs, ids, places=None):
        draws = Augmenter.draw(self, epochs, ids)
        return replace(draws, flip_N=(draws.yx_N2[:, 1] % 2).astype(np.int32))


class RowIsColumn(Augmenter):
    """Broken: one number for both corners."""

    def draw(self, epochs, ids, places=None):
        draws = Augmenter.draw(self, epochs, ids)
        return Draws(yx_N2=draws.yx_N2[:, [0, 0]].copy(), flip_N=draws.flip_N, rgb_N3=draws.rgb_N3)


def test_edge_positions_at_half_weight_are_caught(position_cards, card_augmenter):
    places = read_places(position_cards, broken(EdgesAtHalfWeight, card_augmenter), 4096)
    with pytest.raises(AssertionError, match="equally likely"):
        check_uniform(places.y, POSITIONS)
    with pytest.raises(AssertionError, match="equally likely"):
        check_uniform(places.x, POSITIONS)


def test_unfair_flips_are_caught(position_cards, card_augmenter):
    places = read_places(position_cards, broken(FlipsUnfair, card_augmenter), 2048)
    with pytest.raises(AssertionError, match="fair"):
        check_fair(places.flip)


def test_flips_tied_to_crops_are_caught(position_cards, card_augmenter):
    places = read_places(position_cards, broken(FlipTiedToCrop, card_augmenter), 2048)
    with pytest.raises(AssertionError, match="independent"):
        check_independent(places.flip, places.x)


def test_row_tied_to_column_is_caught(position_cards, card_augmenter):
    places = read_places(position_cards, broken(RowIsColumn, card_augmenter), 2048)
    with pytest.raises(AssertionError, match="independent"):
        check_independent(places.y, places.x)
    with pytest.raises(AssertionError, match="equally likely"):
        check_uniform(places.y * POSITIONS + places.x, POSITIONS**2)
