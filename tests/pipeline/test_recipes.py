"""Every recipe, in both orders: the statistics of what the stream puts out, against closed forms written out here.

``test_augmentation_statistics`` measures the paper's recipe in depth; this file measures the same quantities for each
recipe and order, and what is the recipes' own: blocks that share a crop, the mean's centre, ÷ 1.1, boxes.
"""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats as distributions

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.batch_plan import make_training_planner
from alexstream.pipeline.decode.dali import Engine, run_crop_graph
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms import augment
from alexstream.pipeline.transforms.augment import AUGMENTATIONS, Augmenter
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.sharding.dataset_v1.statistics import load_stats
from tests.pipeline.formula_checks import (
    LEVEL,
    check_covariance,
    check_fair,
    check_independent,
    check_mean,
    check_normal,
    check_uniform,
    check_unrelated,
)

SEED, BATCH = 11, 64
LIT = ("paper", "original", "inception")
ORDERS = ("global", "grouped")


def preprocessing_of(data, recipe):
    return Preprocessing.from_folder(data.folder, data.manifest, AUGMENTATIONS[recipe])


def augmenter_of(data, recipe):
    return preprocessing_of(data, recipe).make_augmenter(SEED, data.manifest.encode.size_px)


def crops_of(data, augmenter, order, count):
    sizes = tuple(record.num_samples for record in data.manifest.shards)
    plan = Order(num_samples=len(data), seed=SEED, kind=order, shard_sizes=sizes, group_shards=1)
    steps = make_training_planner(data, augmenter, plan, BATCH, BatchSlice())
    return islice(run_crop_graph(data, steps, Engine(batch_size=BATCH, num_threads=2), augmenter), count // BATCH)


def offsets_of(data, recipe, order, count):
    """Lighting as it arrives at the network: finished images minus the same without an offset, (count, 3)."""
    finish = preprocessing_of(data, recipe).make_normalizer(torch.device("cpu"))
    offsets = []
    for crops in crops_of(data, augmenter_of(data, recipe), order, count):
        plain = replace(crops, rgb_N3=torch.zeros_like(crops.rgb_N3))
        difference = finish(crops).images_NCHW - finish(plain).images_NCHW
        offsets.append(difference.mean((2, 3), dtype=torch.float64).numpy())
    return np.concatenate(offsets)


def covariance_of(data, recipe):
    """The closed form of what each recipe states."""
    stats = load_stats(data.folder, data.manifest)
    p, spread = stats.eigenvectors_CC, np.sqrt(np.diag(np.array(stats.covariance_255)))
    paper = (255 * 0.1) ** 2 * p @ np.diag(np.square(stats.eigenvalues_01)) @ p.T
    return {
        "paper": paper,
        "original": 0.01 * p @ np.diag(stats.eigenvalues_255) @ p.T / 1.1**2,
        "inception": paper / np.outer(spread, spread),
    }[recipe]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("recipe", LIT)
def test_lighting_has_the_recipes_covariance_no_mean_and_is_drawn_anew(sample_shards, recipe, order):
    data = open_dataset(sample_shards / "train")
    offsets, covariance = offsets_of(data, recipe, order, 512), covariance_of(data, recipe)
    check_covariance(offsets, covariance)
    check_mean(offsets, covariance)
    check_normal(offsets, covariance)
    check_unrelated(offsets[:-1], offsets[1:])


@pytest.mark.parametrize(("claimed", "made"), [("paper", "original"), ("original", "paper"), ("inception", "paper")])
def test_the_covariance_of_another_recipe_is_caught(sample_shards, claimed, made):
    data = open_dataset(sample_shards / "train")
    with pytest.raises(AssertionError, match="covariance"):
        check_covariance(offsets_of(data, made, "global", 512), covariance_of(data, claimed))


def places_of(folder, recipe, order, count):
    """Rows, columns and flips of crops of the cards, read from their pixels; in stream order."""
    data = open_dataset(folder)
    rows = []
    for batch in crops_of(data, augmenter_of(data, recipe), order, count):
        red, green = (batch.crops_NCHW[:, c].float() for c in (0, 1))
        y, x = (t.mean((1, 2)).numpy() - 111.5 for t in (green, red))
        flip = (red[..., :112].mean((1, 2)) > red[..., 112:].mean((1, 2))).numpy()
        rows.append(np.stack([y.round(), x.round(), flip], axis=1).astype(int))
    return np.concatenate(rows)


@pytest.mark.parametrize("order", ORDERS)
def test_crops_and_flips_are_uniform_and_independent_in_both_orders(position_cards, order):
    y, x, flip = places_of(position_cards, "paper", order, 2048).T
    for value in (y, x):
        check_uniform(value, 33)
    check_independent(y, x)
    check_independent(flip, x)
    check_fair(flip)


@pytest.mark.parametrize("order", ORDERS)
def test_original_gives_each_block_of_32_one_crop_and_flip_drawn_anew(position_cards, order):
    places = places_of(position_cards, "original", order, 4096)  # 128 cards an epoch: four whole blocks
    blocks = places.reshape(-1, 32, 3)
    assert (blocks == blocks[:, :1]).all(), "a block has more than one crop"
    y, x, flip = blocks[:, 0].T
    check_uniform(y // 3, 11)  # 128 blocks: eleven bands of three rows
    check_uniform(x // 3, 11)
    check_independent(y // 11, x // 11)
    check_independent(flip[:-1], flip[1:])
    check_independent(y[:-1] // 11, y[1:] // 11)
    check_fair(flip)


def test_original_blocks_do_not_depend_on_the_batch_size_or_the_part(sample_shards):
    whole = ShardedData(train=sample_shards / "train", batch_size=48, augmentation="original", seed=4)
    ids, images = (torch.cat(column) for column in zip(*taken(whole.training(), 2), strict=True))
    small = replace(whole, batch_size=8)
    parts = [taken(small.training(part=BatchSlice(index=i, count=2)), 12) for i in range(2)]
    joined = [torch.cat([parts[i][step][k] for step in range(12) for i in range(2)]) for k in range(2)]
    assert torch.equal(joined[0], ids) and torch.equal(joined[1], images)


def taken(stream, count):
    return [(b.ids_N, b.images_NCHW) for b in islice(stream, count)]


# --- boxes ----------------------------------------------------------------------------------------------------------


def boxes_of(size, count=4000, seed=SEED):
    augmenter = Augmenter(augmentation=AUGMENTATIONS["inception"], seed=seed, margin_px=32, matrix_CC=np.zeros((3, 3)))
    ids = np.arange(count)
    return augmenter.boxes(np.zeros(count, np.int64), ids, np.tile(np.array(size), (count, 1)))


def textbook_boxes(size, count=4000):
    """Random resized crops as they are described, from NumPy's own generator: y, x, height, width."""
    rng, (height, width), boxes = np.random.default_rng(5), size, []
    while len(boxes) < count:
        for _ in range(10):
            area, ratio = height * width * rng.uniform(0.08, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w))
                break
        else:
            pytest.fail("the textbook found no box in ten attempts")
    return np.array(boxes)


def quantities(boxes, size):
    y, x, h, w = boxes.T.astype(float)
    return {
        "area": h * w / np.prod(size),
        "ratio": w / h,
        "row": (y + 0.5) / (size[0] - h + 1),
        "column": (x + 0.5) / (size[1] - w + 1),
    }


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (256, 256)])
def test_boxes_have_the_distribution_of_random_resized_crops(size):
    ours, theirs = (quantities(boxes, size) for boxes in (boxes_of(size), textbook_boxes(size)))
    for name, values in ours.items():
        assert distributions.ks_2samp(values, theirs[name]).pvalue > LEVEL, name
    y, x, h, w = boxes_of(size).T
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= size[0]).all() and (x + w <= size[1]).all()


@pytest.mark.parametrize(("name", "value"), [("BOX_AREA", (0.25, 1.0)), ("BOX_RATIO", (0.9, 1 / 0.9))])
def test_boxes_of_another_range_are_caught(monkeypatch, name, value):
    monkeypatch.setattr(augment, name, value)
    size = (375, 500)
    ours, theirs = (quantities(boxes, size) for boxes in (boxes_of(size), textbook_boxes(size)))
    assert min(distributions.ks_2samp(ours[q], theirs[q]).pvalue for q in ours) < LEVEL


def test_boxes_of_extreme_images_are_inside_and_have_an_allowed_ratio():
    for size in ((1, 1), (1, 900), (900, 1), (2, 3), (40, 4000)):
        y, x, h, w = boxes_of(size, 200).T
        assert (h >= 1).all() and (w >= 1).all() and (y + h <= size[0]).all() and (x + w <= size[1]).all()
    _, _, h, w = boxes_of((40, 4000), 200).T
    assert (w / h < 1.5).all() and (w / h > 0.7).all()


def test_boxes_change_with_the_epoch_and_the_seed_and_not_with_the_batch():
    one = boxes_of((375, 500), 100)
    assert (boxes_of((375, 500), 100, seed=SEED + 1) != one).any(1).mean() > 0.95
    assert np.array_equal(boxes_of((375, 500), 60), one[:60])


def test_the_stream_scales_the_boxes_that_were_drawn(position_cards):
    """The cards' red is the column and green the row: the ends of a crop tell where its box began and ended."""
    data = open_dataset(position_cards)
    augmenter = augmenter_of(data, "inception")
    sizes = np.full((BATCH, 2), 256)
    plan = Order(num_samples=len(data), seed=SEED)
    steps = make_training_planner(data, augmenter, plan, BATCH, BatchSlice())
    for number, batch in enumerate(crops_of(data, augmenter, "global", 4 * BATCH)):
        step = steps(number)
        boxes = augmenter.boxes(step.epochs_N, step.ids_N, sizes)
        columns = batch.crops_NCHW[:, 0].float().mean(1).numpy()
        columns = np.where(step.draws.flip_N[:, None] == 1, columns[:, ::-1], columns)
        rows = batch.crops_NCHW[:, 1].float().mean(2).numpy()
        for values, begin, length in ((rows, boxes[:, 0], boxes[:, 2]), (columns, boxes[:, 1], boxes[:, 3])):
            centres = begin[:, None] + (np.arange(224) + 0.5) * length[:, None] / 224 - 0.5
            # away from the ends, where the filter is cut off; the cards are JPEGs
            assert np.abs(values - centres)[:, 8:-8].max() < 1.5


def test_every_recipe_with_lighting_has_a_form_without_it_for_phases_that_turn_it_off():
    for name, recipe in list(AUGMENTATIONS.items()):
        if recipe.lighting != "none":
            assert AUGMENTATIONS[f"{name}-no-lighting"] == replace(recipe, lighting="none")
