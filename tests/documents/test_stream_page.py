"""docs/stream.md is enough: random words, orders, crops, flips, lighting and boxes rebuilt from its words alone.

The program is imported only for what is compared: its draws, and the batches that it streams.
"""

import io
import json
import math
import tarfile
from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import DatasetStats
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.support.doc_pages import block, tables

PAGE = "stream.md"
LOW = 0xFFFFFFFF


# --- Random words


def philox(counter, key):
    """Ten rounds of Philox4x32: four counter words and two key words give four words."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & LOW, (p0 >> 32) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0, c1, c2, c3


def words(seed, epoch, number, purpose):
    return philox((number & LOW, number >> 32, epoch, purpose), (seed & LOW, (seed >> 32) & LOW))


def test_known_answers_of_the_generator():
    for counter, key, expected in tables(PAGE, "Random words")[1]:
        assert [f"{word:08x}" for word in philox(numbers(counter), numbers(key))] == expected.split()


def numbers(text):
    return [int(word, 16) for word in text.split()]


def test_words_of_the_pages_seeds_epochs_and_samples():
    for seed, epoch, number, purpose, expected in tables(PAGE, "Random words")[2]:
        made = words(int(seed), int(epoch), int(number), int(purpose))
        assert [f"{word:08x}" for word in made] == expected.split()


# --- Order


def in_random_order(seed, epoch, ids, purpose):
    return sorted(ids, key=lambda one: words(seed, epoch, one, purpose)[:2])  # stable, as the page says


def epoch_of(kind, seed, epoch, sizes):
    """Sample ids in the order of an epoch; `sizes`: samples of each shard."""
    if kind == "global":
        return in_random_order(seed, epoch, range(sum(sizes)), 0)
    shards = in_random_order(seed, epoch, range(len(sizes)), 3)
    ids = [list(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in shards]
    groups = [chain(*ids[i : i + 8]) for i in range(0, len(ids), 8)]
    return [one for group in groups for one in in_random_order(seed, epoch, group, 4)]


def batch_of(kind, seed, sizes, batch_size, step):
    """(epoch, id, place) of each sample of a step."""
    total = sum(sizes)
    places = [divmod(step * batch_size + i, total) for i in range(batch_size)]
    orders = {epoch: epoch_of(kind, seed, epoch, sizes) for epoch in {epoch for epoch, _ in places}}
    return [(epoch, orders[epoch][place], place) for epoch, place in places]


def test_orders_of_the_page():
    for kind, seed, sizes, epoch, expected in tables(PAGE, "Order")[0]:
        order = epoch_of(kind, int(seed), int(epoch), [int(size) for size in sizes.split()])
        assert order == [int(one) for one in expected.split()]


@pytest.mark.parametrize("kind", ["global", "grouped"])
def test_batches_of_the_program_are_in_the_order_of_the_page(kind):
    sizes, seed, batch_size = (9, 8, 7, 0, 11, 3, 2, 5, 6, 4, 10, 1, 12, 2, 2, 2, 5), -(2**40) + 3, 32
    order = Order(num_samples=sum(sizes), seed=seed, kind=kind, shard_sizes=sizes)
    for step in (0, 2, 7):  # the third and the eighth lie across the end of an epoch
        made = zip(*(values.tolist() for values in order.batch(batch_size, step)), strict=True)
        assert list(made) == batch_of(kind, seed, sizes, batch_size, step)


# --- Crops, flips, lighting


def crop_and_flip(drawn, margin):
    return (drawn[0] * (margin + 1)) >> 32, (drawn[1] * (margin + 1)) >> 32, drawn[2] >> 31


def normals(drawn):
    u = [(word + 0.5) / 2**32 for word in drawn]
    first, second = (math.sqrt(-2 * math.log(one)) for one in u[:2])
    a, b = 2 * math.pi * u[2], 2 * math.pi * u[3]
    return first * math.cos(a), first * math.sin(a), second * math.cos(b)


def offset(lighting, stats, z):
    """What is added to R, G, B."""
    scales = {
        "paper": [25.5 * one for one in stats["eigenvalues_01"]],
        "original": [0.1 * math.sqrt(max(0.0, one)) for one in stats["eigenvalues_255"]],
    }[lighting]
    return [sum(row[i] * scales[i] * z[i] for i in range(3)) for row in stats["eigenvectors"]]


def draws(recipe, seed, epoch, one, place, margin=32):
    number, purpose = (place // 32, 5) if recipe == "original" else (one, 1)
    return *crop_and_flip(words(seed, epoch, number, purpose), margin), normals(words(seed, epoch, one, 2))


def test_draws_of_the_page():
    for recipe, seed, epoch, one, place, expected in tables(PAGE, "Crop, flip, lighting")[0]:
        *window, z = draws(recipe, int(seed), int(epoch), int(one), int(place))
        y, x, flip, *rest = expected.split()
        assert window == [int(y), int(x), int(flip)]
        assert z == pytest.approx([float(number) for number in rest], abs=1e-9)


def page_statistics():
    return json.loads(block("formats.md", "`stats.json`", 1))


def test_offsets_of_the_page():
    for recipe, z, expected in tables(PAGE, "Crop, flip, lighting")[1]:
        made = offset(recipe, page_statistics(), [float(one) for one in z.split()])
        assert made == pytest.approx([float(one) for one in expected.split()], abs=1e-9)


def program_statistics():
    shown = page_statistics()
    return DatasetStats(dataset_digest="", num_images=1, mean_image_sha256="", **shown)


def program_augmenter(recipe, seed, size_px):
    mean_image = np.zeros((size_px, size_px, 3))
    preprocessing = Preprocessing(recipe=AUGMENTATIONS[recipe], stats=program_statistics(), mean_image_HWC=mean_image)
    return preprocessing.make_augmenter(seed, size_px)


@pytest.mark.parametrize("recipe", ["paper", "original"])
@pytest.mark.parametrize("size_px", [256, 299])
def test_draws_of_the_program_are_those_of_the_page(recipe, size_px):
    seed, ids, places = -7, [0, 5, 31, 2**31 - 2, 12], [0, 31, 32, 63, 64]
    made = program_augmenter(recipe, seed, size_px)
    found = made.draw(np.full(5, 3), np.array(ids), np.array(places))
    for i, (one, place) in enumerate(zip(ids, places, strict=True)):
        *window, z = draws(recipe, seed, 3, one, place, size_px - 224)
        assert [*found.yx_N2[i].tolist(), int(found.flip_N[i])] == window
        assert found.rgb_N3[i] == pytest.approx(offset(recipe, page_statistics(), z), rel=1e-6, abs=1e-6)


# --- Boxes


def box(seed, epoch, one, height, width):
    for attempt in range(10):
        w = words(seed, epoch, one, 16 + attempt)
        area = height * width * (0.08 + 0.92 * (w[0] + 0.5) / 2**32)
        ratio = 0.75 * (16 / 9) ** ((w[1] + 0.5) / 2**32)
        tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 1 <= tall <= height and 1 <= wide <= width:
            return (w[2] * (height - tall + 1)) >> 32, (w[3] * (width - wide + 1)) >> 32, tall, wide
    tall, wide = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def test_boxes_of_the_page():
    for seed, epoch, one, size, expected in tables(PAGE, "Boxes")[0]:
        height, width = (int(side) for side in size.split(" × "))
        assert list(box(int(seed), int(epoch), int(one), height, width)) == [int(n) for n in expected.split()]


def test_boxes_of_the_program_are_those_of_the_page():
    rng = np.random.default_rng(3)
    sizes = np.concatenate([rng.integers(1, 900, (200, 2)), [[7, 4000], [4000, 7], [1, 1], [1, 50]]])
    ids = np.arange(len(sizes)) + 2**32 - 100
    made = program_augmenter("inception", 11, 256).boxes(np.full(len(sizes), 2), ids, sizes)
    assert made.tolist() == [list(box(11, 2, *one)) for one in np.column_stack([ids, sizes]).tolist()]


# --- Pixels


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """A folder of shards with 44 drawings of 256×256 as raw samples, and nothing else that the page needs."""
    source, folder = tmp_path_factory.mktemp("drawings"), tmp_path_factory.mktemp("drawn-shards") / "train"
    rng = np.random.default_rng(4)
    for name in ("even", "odd"):
        (source / name).mkdir()
    for number in range(44):
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((256, 256)).save(file, "PNG", compress_level=1)
        (source / ("odd" if number % 2 else "even") / f"{number}.png").write_bytes(file.getvalue())
    shard_split(ShardRequest(source=source, folder=folder, encode=EncodeRecipe(encoding="raw")), quiet=True)
    return folder


def stored(folder):
    """Images (256, 256, 3) by sample id."""
    with tarfile.open(folder / "train-000000.tar") as tar:
        files = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".rgb")]
    return [np.frombuffer(one, np.uint8).reshape(256, 256, 3) for one in files]


def finished(recipe, image, mean, window, added):
    """The image (3, 224, 224) that the network sees, in float64."""
    y, x, flip = window
    crop = image[y : y + 224, x : x + 224].astype(float)
    crop = crop[:, ::-1] if flip else crop
    if recipe == "paper":
        below = mean[y : y + 224, x : x + 224]
        below = below[:, ::-1] if flip else below
    else:
        below = mean[16:240, 16:240]
    return ((crop - below + added) / (1.1 if recipe == "original" else 1.0)).transpose(2, 0, 1)


@pytest.mark.parametrize("recipe", ["paper", "original"])
@pytest.mark.parametrize("decoder", ["auto", "dali", "threads"])
def test_the_stream_of_the_program_is_rebuilt_pixel_by_pixel(drawings, recipe, decoder):
    images, mean = stored(drawings), np.load(drawings / "mean.npy")
    stats = json.loads((drawings / "stats.json").read_bytes())
    data = ShardedData(train=drawings, batch_size=20, seed=5, augmentation=recipe, decoder=decoder)
    batches = islice(data.training(0, BatchSlice(), None, torch.device("cpu")), 3)
    blocks = set()
    for step, batch in enumerate(batches):
        expected = batch_of("global", 5, [44], 20, step)
        assert batch.ids_N.tolist() == [one for _, one, _ in expected]
        for made, (epoch, one, place) in zip(batch.images_NCHW.numpy(), expected, strict=True):
            *window, z = draws(recipe, 5, epoch, one, place)
            blocks.add(tuple(window))
            expected_image = finished(recipe, images[one], mean, window, offset(recipe, stats, z))
            assert np.abs(made - expected_image).max() < 2 * 2**-15
    assert len(blocks) == 3 if recipe == "original" else len(blocks) > 50
