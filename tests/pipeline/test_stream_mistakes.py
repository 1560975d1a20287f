"""What people get wrong with ShardedData: one sentence that says what to do, and no batches that are not there."""

import subprocess
import sys

import pytest
from torch.utils.data import DataLoader

from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.stream import ShardedData


def test_a_split_alone_has_no_validation_batches_to_be_empty(sample_shards):
    with pytest.raises(StreamError, match="no validation split; give one as `val`, or the folder of both"):
        ShardedData(sample_shards / "train", batch_size=8).validation()
    whole = ShardedData(sample_shards, batch_size=8)
    assert sum(int((batch.ids_N >= 0).sum()) for batch in whole.validation()) == 16


@pytest.mark.parametrize("place", [16, 0.5, ["shards"], b"shards", ""])
def test_a_split_is_a_folder(sample_shards, place):
    for name, given in (("train", {"train": place}), ("val", {"train": sample_shards, "val": place})):
        with pytest.raises(StreamError, match=rf"^{name}: received "):
            ShardedData(**given)
    with pytest.raises(StreamError, match=r"^train: received None"):
        ShardedData(None)


def test_devices_may_be_named(sample_shards):
    data = ShardedData(sample_shards / "train", batch_size=8)
    images, _ = next(iter(data.loader(device="cpu")))
    assert images.shape == (8, 3, 224, 224) and data.decode_path("cpu").startswith("jpeg shards")
    with pytest.raises(StreamError, match="device: received 'gpu', expected one of torch's, as 'cpu' or 'cuda'"):
        next(iter(data.loader(device="gpu")))


def test_the_options_are_no_loader_and_say_what_is(sample_shards):
    data = ShardedData(sample_shards / "train", batch_size=8)
    assert data
    with pytest.raises(TypeError, match=r"data\.loader\(\)"):
        iter(data)
    with pytest.raises(TypeError, match=r"data\.loader\(\)"):
        DataLoader(data, batch_size=None, shuffle=True)


def test_a_loop_that_is_left_open_ends_with_the_program_and_without_a_word(sample_shards):
    program = f"""
import alexstream
batches = iter(alexstream.ShardedData({str(sample_shards / "train")!r}, batch_size=8).loader())
next(batches), next(batches)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
