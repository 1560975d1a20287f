"""The compiled operator: the bits of DALI's decoder and the finish, for every window; a clear outcome for bad bytes."""

import ctypes
import gc
import hashlib
import io
import os
import re
import shutil
import subprocess
import threading
import time
from itertools import islice, product
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from alexstream.pipeline import doctor
from alexstream.pipeline.decode import fused
from alexstream.pipeline.decode.fused import ROW_DTYPE, fill_rows
from alexstream.pipeline.errors import OUTCOME_MESSAGES, StreamError
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.mean import MeanPlanes
from alexstream.pipeline.transforms.normalize import Normalizer
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from tests.support import ROOT
from tests.support.damaged_samples import damage_sample

pytestmark = pytest.mark.skipif(
    fused.find_operator_address() is None, reason="fused.c was not compiled here: no libjpeg-turbo"
)

DONE, UNREADABLE, CUT_OFF, UNDECODABLE, OTHER_SIZE = range(5)
EDGE = 256


@pytest.fixture(scope="module")
def photo():
    """Pixels (256, 256, 3) with edges, gradients and noise."""
    y, x = np.mgrid[0:EDGE, 0:EDGE]
    rng = np.random.default_rng(7)
    waves = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (5 + k)) for k in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 12, (EDGE, EDGE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def mean():
    planes = np.random.default_rng(1).uniform(0, 255, (EDGE, EDGE, 3))
    both = np.stack([planes.transpose(2, 0, 1), planes.transpose(2, 0, 1)[:, :, ::-1]]).astype(np.float32)
    return MeanPlanes(planes_2CMM=np.ascontiguousarray(both), follows_crop=True)


class Calls:
    """The operator as DALI calls it, without DALI."""

    def __init__(self, tmp_path, content, mean, *, raw=False, misaligned=False, edge=EDGE):
        self.path = tmp_path / "stored"
        self.path.write_bytes(b"before" + content)
        self.fd, self.size = os.open(self.path, os.O_RDONLY), len(content)
        self.mean, self.raw, self.edge = mean, raw, edge
        memory = np.zeros(3 * 224 * 224 + 32, np.float32)
        start = (-memory.ctypes.data % 64) // 4 + (1 if misaligned else 0)
        self.out = memory[start : start + 3 * 224 * 224].reshape(1, 3, 224, 224)
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int)
        self.run = signature(fused.find_operator_address())

    def __call__(self, y=0, x=0, flip=0, rgb=(0, 0, 0), divisor=(1, 1, 1), row=(), **changes):
        """Outcome, and the finished image (3, 224, 224)."""
        rows = np.zeros(1, ROW_DTYPE)
        rows["fd"], rows["offset"], rows["size"], rows["edge"], rows["raw"] = self.fd, 6, self.size, self.edge, self.raw
        draws = np.array([[y, x]], np.int32), np.array([flip], np.int32), np.array([rgb], np.float32)
        fill_rows(rows, self.out, self.mean, *draws)
        rows["divisor"] = divisor
        for name, value in {**dict(row), **changes}.items():
            rows[name] = value
        answer = rows.copy()
        given, answered = (np.array([a.ctypes.data], np.uint64) for a in (rows, answer))
        self.run(answered.ctypes.data, None, None, 1, given.ctypes.data, None, None, 1)
        return int(answer.view(np.int64)[0]), self.out[0].copy()

    def __del__(self):
        os.close(self.fd)


def expected(pixels, mean, y, x, flip, rgb=(0, 0, 0), divisor=(1, 1, 1)):
    """In float32, rounded after each operation, as the finish does."""
    crop = pixels[y : y + 224, x : x + 224].transpose(2, 0, 1).astype(np.float32)
    window = mean.planes_2CMM[0][:, y : y + 224, x : x + 224]
    lit = (crop - window) + np.array(rgb, np.float32)[:, None, None]
    return (lit / np.array(divisor, np.float32)[:, None, None])[:, :, :: -1 if flip else 1]


def encoded(pixels, quality=95, subsampling="420", **options):
    return simplejpeg.encode_jpeg(pixels, quality, colorsubsampling=subsampling, **options)


@pytest.mark.parametrize("misaligned", [False, True], ids=["vectors", "plain C"])
@pytest.mark.parametrize("flip", [0, 1])
def test_every_window_of_raw_pixels(tmp_path, photo, mean, flip, misaligned):
    call = Calls(tmp_path, photo.tobytes(), mean, raw=True, misaligned=misaligned)
    rgb, divisor = (1.25, -3.5, 7.1), (1.1, 1.0, 57.3)
    for y, x in product(range(0, 33, 4), range(33)):
        outcome, image = call(y, x, flip, rgb, divisor)
        assert outcome == DONE
        assert np.array_equal(image, expected(photo, mean, y, x, flip, rgb, divisor)), (y, x)


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_every_window_of_a_jpeg_is_pillows_decode(tmp_path, photo, mean, subsampling):
    content = encoded(photo, subsampling=subsampling)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    call = Calls(tmp_path, content, mean)
    for y, x in product(range(33), range(33)):
        outcome, image = call(y, x, (y + x) % 2)
        assert outcome == DONE
        assert np.array_equal(image, expected(pixels, mean, y, x, (y + x) % 2)), (y, x)


def test_the_lowest_and_largest_values_survive(tmp_path, mean):
    for value in (0, 255):
        pixels = np.full((EDGE, EDGE, 3), value, np.uint8)
        _, image = Calls(tmp_path, pixels.tobytes(), mean, raw=True)(3, 5, 1, (-40, 0, 40))
        assert np.array_equal(image, expected(pixels, mean, 3, 5, 1, (-40, 0, 40)))


def test_a_jpeg_of_many_scans_is_refused_before_its_scans_are_read(tmp_path, photo, mean):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=90, progressive=True)
    whole = buffer.getvalue()
    first = whole.index(b"\xff\xda")
    for content in (whole, whole[: first + 40]):  # its scans are not looked at
        assert Calls(tmp_path, content, mean)(9, 30, 0)[0] == UNDECODABLE


ROWS = {
    "y": (-1, 33, 300, 1 << 40, -(1 << 62)),
    "x": (-1, 33, 4000, 1 << 40, -(1 << 62)),
    "edge": (0, -1, 100, 223, 1 << 40, 1 << 62),
    "size": (-1, 2 * 3 * EDGE * EDGE + (64 << 10) + 1, 1 << 40, 1 << 62),
    "mean_edge": (0, -1, 100, 1 << 40),
}


@pytest.mark.parametrize("raw", [False, True], ids=["jpeg", "raw"])
@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in ROWS.items() for value in values])
def test_a_row_that_no_data_set_gives_touches_no_memory(tmp_path, photo, mean, field, value, raw):
    content = photo.tobytes() if raw else encoded(photo)
    call = Calls(tmp_path, content, mean, raw=raw)
    call.out[:] = 7
    outcome, image = call(row={field: value})
    assert outcome == OTHER_SIZE and (image == 7).all()


def test_raw_pixels_have_the_one_length(tmp_path, photo, mean):
    call = Calls(tmp_path, photo.tobytes(), mean, raw=True)
    assert [call(size=call.size + more)[0] for more in (-1, 0, 1)] == [OTHER_SIZE, DONE, OTHER_SIZE]


def build(tmp_path, change):
    """``fused.c`` after ``change`` of its text, compiled; the path of the library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "fused.c", tmp_path / "fused.so"
    source.write_text(change((ROOT / "pipeline" / "decode" / "fused.c").read_text()))
    words = [compiler, "-O1", "-pthread", "-shared", "-fPIC", source, "-ljpeg", "-o", library]
    subprocess.run(words, check=True)
    return str(library)


CHANGES = {
    "older than the constant": lambda text: text.replace("alexstream_interface", "another_name"),
    "of another version": lambda text: text.replace("VERSION = 2 ", "VERSION = 1 "),
    "with a field more": lambda text: text.replace("int64_t raw; ", "int64_t raw, more; "),
    "with a longer answer": lambda text: text.replace("FINISH, ANSWERS", "FINISH, MORE, ANSWERS"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_operator_of_another_version_is_not_used_and_that_is_said(tmp_path, monkeypatch, caplog, change):
    whole = (ROOT / "pipeline" / "decode" / "fused.c").read_text()
    assert change(whole) != whole
    library = build(tmp_path, change)
    monkeypatch.setattr(fused, "find_spec", lambda name: SimpleNamespace(origin=library))
    fused.find_operator.cache_clear()
    try:
        assert fused.find_operator_address() is None
        (record,) = caplog.records
        assert library in record.getMessage() and "another version" in record.getMessage()
        check = doctor._check_operator()
        assert check.state == "note" and "another version" in check.found and "again" in check.advice
    finally:
        fused.find_operator.cache_clear()


def test_the_operator_of_this_version_is_used(tmp_path):
    assert fused.load_operator(build(tmp_path, lambda text: text)).address
    (tmp_path / "none.so").write_bytes(b"no library")
    assert fused.load_operator(str(tmp_path / "none.so")).address is None


def test_a_change_of_rows_or_answers_counts_the_version_up():
    """The code of both, by version: who changes it adds a line here, and counts VERSION up in fused.c and fused.py."""
    text = (ROOT / "pipeline" / "decode" / "fused.c").read_text()
    code = text[text.index("typedef struct {\n    int64_t fd") : text.index("enum { VERSION")]
    said = " ".join(re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL).split())
    assert (fused.INTERFACE[0], hashlib.sha256(said.encode()).hexdigest()[:16]) == (2, "bc9c0f8c9ddbacf2")


def test_bad_bytes_have_an_outcome_and_the_next_sample_is_untouched(tmp_path, photo, mean):
    content = encoded(photo)
    middle = len(content) // 2
    bad = {
        "no JPEG": (b"\0" * 500, UNDECODABLE),
        "nothing but a header": (content[:200], UNDECODABLE),
        "cut in half": (content[:middle], UNDECODABLE),
        "overwritten": (content[:middle] + b"\xff\xd9" * 40 + content[middle + 80 :], UNDECODABLE),
        "another size": (encoded(photo[:, :250]), OTHER_SIZE),
        "empty": (b"", UNDECODABLE),
    }
    for name, (damaged, outcome) in bad.items():
        assert Calls(tmp_path, damaged, mean)()[0] == outcome, name
        good, image = Calls(tmp_path, content, mean)(2, 2, 0)
        assert good == DONE and image.any()


def test_what_cannot_be_read_has_an_outcome(tmp_path, photo, mean):
    call = Calls(tmp_path, encoded(photo), mean)
    assert call(size=call.size + 1000)[0] == CUT_OFF
    assert call(fd=-1)[0] == UNREADABLE
    assert len(OUTCOME_MESSAGES) == 7


def test_a_file_cut_while_it_is_open_is_an_error_and_no_crash(sample_shards, tmp_path):
    folder = shutil.copytree(sample_shards / "train", tmp_path / "train")
    stream = ShardedData(train=folder, batch_size=16, prefetch=1).training()
    next(stream)
    tar = folder / "train-000000.tar"
    os.truncate(tar, 4096)
    with pytest.raises(StreamError, match=r"sample \S+ in train-000000\.tar .*(beyond the end|cannot be read)"):
        for _ in islice(stream, 20):
            pass


@pytest.mark.parametrize("recipe", ["paper", "original", "none"])
def test_without_the_operator_the_stream_is_the_same(sample_shards, monkeypatch, recipe):
    data = ShardedData(train=sample_shards / "train", batch_size=16, augmentation=recipe)
    assert "compiled operator" in data.decode_path()
    compiled = [b.images_NCHW for b in islice(data.training(), 5)]
    monkeypatch.setattr(fused, "find_operator_address", lambda: None)
    assert "by DALI on the CPU" in data.decode_path()
    assert all(torch.equal(a, b.images_NCHW) for a, b in zip(compiled, data.training(), strict=False))


def test_a_damaged_jpeg_that_dali_would_take_is_caught(sample_shards, tmp_path):
    from alexstream.pipeline.reading.dataset import open_dataset

    folder = shutil.copytree(sample_shards / "train", tmp_path / "train")
    data = open_dataset(folder)
    with (folder / "train-000000.tar").open("r+b") as file:  # in the middle of sample 5's entropy-coded pixels
        file.seek(int(data.offset_N[5] + data.size_N[5] // 2))
        file.write(b"\xff\xd9" * 30)
    with pytest.raises(StreamError, match="sha256"):
        for _ in islice(ShardedData(train=folder, batch_size=16).training(), 5):
            pass


def test_skipping_works_in_the_compiled_stream(sample_shards, tmp_path):
    folder = shutil.copytree(sample_shards / "train", tmp_path / "train")
    damage_sample(folder, 7)
    data = ShardedData(train=folder, batch_size=16, on_bad_sample="skip")
    ids = torch.cat([b.ids_N for b in islice(data.training(), 8)])
    assert 7 not in ids and 8 in ids


def test_streams_that_are_left_halfway_leave_neither_threads_nor_files(sample_shards):
    data = ShardedData(train=sample_shards / "train", batch_size=16, num_threads=2)

    def living():
        """Threads that Python started; of others that once ran Python it keeps a record after their end."""
        return {one for one in threading.enumerate() if not isinstance(one, threading._DummyThread)}

    def leave(times):
        for _ in range(times):
            stream = data.training()
            next(stream)
            stream.close()
            del stream
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    others = living()
    before = leave(3)  # what an earlier test left may still close: fewer is no leak
    assert all(after <= first for after, first in zip(leave(12), before, strict=True))
    deadline = time.monotonic() + 10  # a thread that has done its last may take a moment to be gone
    while not living() <= others and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living() <= others


def test_the_finish_of_every_recipe_is_that_of_the_operator(sample_shards, tmp_path, photo):
    from alexstream.pipeline.batch import CropBatch
    from alexstream.sharding.dataset_v1.manifest import load_manifest

    folder = sample_shards / "train"
    manifest = load_manifest(folder)
    for name in ("paper", "original", "none", "inception"):
        preprocessing = Preprocessing.from_folder(folder, manifest, AUGMENTATIONS[name])
        planes, divisors = preprocessing.make_mean_planes(), preprocessing.divisors_C
        _, image = Calls(tmp_path, photo.tobytes(), planes, raw=True)(3, 17, 1, (1.5, 2.5, -3), divisors)
        crop = torch.from_numpy(np.ascontiguousarray(photo[3:227, 17:241][:, ::-1].transpose(2, 0, 1))[None])
        batch = CropBatch(
            crops_NCHW=crop, labels_N=torch.zeros(1), ids_N=torch.zeros(1),
            yx_N2=torch.tensor([[3, 17]], dtype=torch.int32), flip_N=torch.tensor([1], dtype=torch.int32),
            rgb_N3=torch.tensor([[1.5, 2.5, -3.0]]),
        )  # fmt: skip
        finished = Normalizer(planes, torch.device("cpu"), divisors)(batch).images_NCHW[0]
        assert np.array_equal(finished.numpy(), image), name
