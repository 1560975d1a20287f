"""The stream on a GPU: close to the CPU's pixels, exact where nothing is decoded, repeatable, resumable.

Needs a CUDA device and skips without one. The budget of ``test_decoded_pixels_are_those_of_the_cpu_within_the_budget``
is what two JPEG decoders that follow the standard may differ by, with smooth chroma upsampling on both sides.
"""

import time
from dataclasses import replace
from itertools import islice

import pytest
import torch

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.support.comparisons import are_equal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
MEAN_BUDGET, PIXEL_BUDGET, SHARE_WITHIN = 1.0, 8.0, 0.999  # grey levels; of all values


@pytest.fixture(scope="module")
def gpu():
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def encoded(sample_images, tmp_path_factory):
    """Folders of the sample set by encoding."""
    folders = {}
    for encoding in ("jpeg", "raw", "keep"):
        folders[encoding] = tmp_path_factory.mktemp(encoding) / "train"
        request = ShardRequest(
            source=sample_images / "train", folder=folders[encoding], encode=EncodeRecipe(encoding=encoding)
        )
        shard_split(request, quiet=True)
    return folders


def data_of(folder, **options):
    return ShardedData(**{"train": folder, "val": folder, "batch_size": 16, "seed": 5, "num_threads": 4, **options})


def taken(stream, count):
    return [(b.ids_N.clone(), b.labels_N.clone(), b.images_NCHW.clone()) for b in islice(stream, count)]


def test_batches_are_on_the_device(encoded, gpu):
    batch = next(data_of(encoded["jpeg"]).training(device=gpu))
    assert {t.device.type for t in (batch.images_NCHW, batch.labels_N, batch.ids_N)} == {"cuda"}
    assert "GPU" in data_of(encoded["jpeg"]).decode_path(gpu)


@pytest.mark.parametrize("recipe", ["paper", "original", "none"])
def test_raw_shards_give_the_bits_of_the_cpu(encoded, gpu, recipe):
    data = data_of(encoded["raw"], augmentation=recipe)
    for cpu, device in zip(taken(data.training(), 6), taken(data.training(device=gpu), 6), strict=True):
        assert all(torch.equal(a, b.cpu()) for a, b in zip(cpu, device, strict=True))


@pytest.mark.parametrize(
    ("encoding", "recipe"), [("jpeg", "paper"), ("jpeg", "original"), ("keep", "paper"), ("keep", "inception")]
)
def test_decoded_pixels_are_those_of_the_cpu_within_the_budget(encoded, gpu, encoding, recipe):
    data = data_of(encoded[encoding], augmentation=recipe)
    scale = 1.0 if recipe != "inception" else 60.0  # which divides by the standard deviation, some 60 grey levels
    for cpu, device in zip(taken(data.training(), 6), taken(data.training(device=gpu), 6), strict=True):
        assert torch.equal(cpu[0], device[0].cpu()) and torch.equal(cpu[1], device[1].cpu())
        difference = (cpu[2] - device[2].cpu()).abs() * scale
        print(f"{encoding} {recipe}: mean {difference.mean():.3f}, largest {difference.max():.1f} grey levels")
        assert difference.mean() <= MEAN_BUDGET
        assert (difference <= PIXEL_BUDGET).float().mean() >= SHARE_WITHIN


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "keep"])
def test_the_same_stream_twice_and_from_the_middle(encoded, gpu, encoding):
    data = data_of(encoded[encoding])
    whole = taken(data.training(device=gpu), 9)
    assert are_equal(whole, taken(replace(data, num_threads=2, prefetch=4).training(device=gpu), 9))
    for start in (2, 5):
        assert are_equal(whole[start:], taken(data.training(start, device=gpu), 9 - start))


def test_two_half_batches_are_the_whole(encoded, gpu):
    data = data_of(encoded["jpeg"])
    halves = [taken(data.training(part=BatchSlice(index=i, count=2), device=gpu), 4) for i in range(2)]
    for step, whole in enumerate(taken(data.training(device=gpu), 4)):
        assert are_equal([whole], [tuple(torch.cat([halves[i][step][k] for i in range(2)]) for k in range(3))])


def test_ten_views_contain_the_centre(encoded, gpu):
    data = data_of(encoded["jpeg"])
    centre, views = next(data.validation(device=gpu)), next(data.validation(device=gpu, views=10))
    assert torch.equal(views.images_NCHW[:, 4], centre.images_NCHW)


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_throughput_is_printed(encoded, gpu, encoding):
    stream = data_of(encoded[encoding], batch_size=64).training(device=gpu)
    for _ in islice(stream, 20):
        pass
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in islice(stream, 100):
        pass
    torch.cuda.synchronize()
    print(f"{encoding}: {6400 / (time.perf_counter() - start):.0f} images/s on {torch.cuda.get_device_name()}")
