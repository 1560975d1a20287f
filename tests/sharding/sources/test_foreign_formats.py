"""Data of other programs, as these programs themselves write it, is named for what it is, with a way out."""

import pickle
import struct

import numpy as np
import pyarrow as pa
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.detect import detect_source
from tests.support import imagenet_miniature as mini

LMDB = bytes(16) + struct.pack("<II", 0xBEEFC0DE, 1) + bytes(100)


def crc32c(data):
    """CRC-32C by division of polynomials, as RFC 3720 has it: bits reflected, all ones before and after."""
    bits = int("".join(f"{byte:08b}"[::-1] for byte in data), 2) << 32
    bits ^= 0xFFFFFFFF << (8 * len(data))
    for place in range(8 * len(data) + 31, 31, -1):
        if bits >> place & 1:
            bits ^= 0x11EDC6F41 << (place - 32)
    return int(f"{bits ^ 0xFFFFFFFF:032b}"[::-1], 2)


def tfrecord(data):
    length = struct.pack("<Q", len(data))
    return length + b"".join(
        struct.pack("<I", masked(part)) + (data if part == length else b"") for part in (length, data)
    )


def masked(part):
    crc = crc32c(part)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_check_value_of_the_catalogue_of_crcs():
    assert crc32c(b"123456789") == 0xE3069283


def arrow(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"x": [1]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


FORMATS = {
    "TFRecord": {"train.tfrecord": tfrecord(b"abc" * 99), "val.tfrecord-00000-of-00002": tfrecord(b"x")},
    "TFRecord of ImageNet": {"train-00000-of-01024": tfrecord(b"x" * 300), "validation-00000-of-00128": tfrecord(b"y")},
    "LMDB": {"data.mdb": LMDB, "lock.mdb": b""},
    "FFCV": {"train.beton": bytes(64)},
    "MDS": {"index.json": b'{"version": 2, "shards": [{"format": "mds"}]}', "shard.00000.mds": bytes(64)},
    "MDS (": {"index.json": b"{}", "shard.00000.mds.zstd": bytes(64)},
    "Arrow": {"dataset_info.json": b"{}", "state.json": b"{}", "data-00000-of-00001.arrow": None},
    "RecordIO": {"train.rec": b"\x0a\x23\xd7\xce" + bytes(8), "train.idx": b"0\t0\n", "train.lst": b"0\t1\ta.jpg\n"},
    "HDF5": {"train.h5": b"\x89HDF\r\n\x1a\n"},
    "NumPy": {"x_train.npy": b"\x93NUMPY", "y_train.npy": b"\x93NUMPY"},
    "NumPy ": {"mnist.npz": b"PK\x03\x04"},
    "MNIST": {"train-images-idx3-ubyte": bytes.fromhex("00000803"), "train-labels-idx1-ubyte": b"\0\0\x08\x01"},
    "CIFAR": {f"data_batch_{i}": pickle.dumps({}) for i in range(1, 6)} | {"batches.meta": pickle.dumps({})},
    "pickled": {name: pickle.dumps({"data": 1}) for name in ("train", "test", "meta")},
    "MATLAB": {"train_32x32.mat": b"MATLAB 5.0"},
    "a video": {"a/one.mp4": b"x", "b/two.avi": b"y"},
    "compressed": {"images.zip": b"PK\x03\x04"},
}


@pytest.mark.parametrize("folder", ["", "train/", "default/0.0.0/abc/"])
@pytest.mark.parametrize("called", FORMATS)
def test_a_folder_of_another_format_is_named_in_one_line(tmp_path, called, folder):
    for name, data in FORMATS[called].items():
        if data is None:
            arrow(tmp_path / folder / name)
        else:
            mini.write(tmp_path / folder / name, data)
    with pytest.raises(
        SourceError, match=called.split(" (", maxsplit=1)[0].split(" of", maxsplit=1)[0].strip()
    ) as error:
        detect_source(tmp_path)
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    assert any(name in said for name in FORMATS[called])
    assert any(word in said for word in ("write", "turn", "unpack"))


@pytest.mark.parametrize("called", [one for one in FORMATS if "Arrow" not in one])
def test_a_tar_of_another_format_is_named_too(tmp_path, called):
    mini.write(tmp_path / "train.tar", mini.tar_bytes([(f"x/{n}", d) for n, d in FORMATS[called].items()]))
    if called in ("TFRecord of ImageNet", "pickled", "MATLAB"):
        pytest.skip("only the first bytes, or the other files of a devkit, tell these")
    for src in (tmp_path, tmp_path / "train.tar"):
        with pytest.raises(SourceError, match=r"is .*, which is not supported|is compressed"):
            detect_source(src)


@pytest.mark.parametrize("name", ["train.tfrecord", "train.beton", "x.h5", "x.npz", "x.mp4", "x.mdb", "x.7z"])
def test_one_file_of_another_format_is_named(tmp_path, name):
    name = "data.mdb" if name == "x.mdb" else name
    mini.write(tmp_path / name, b"\x89HDF\r\n\x1a\n")
    with pytest.raises(SourceError, match=rf"{name} is .*, which is not supported"):
        detect_source(tmp_path / name)


LAYOUTS = {
    "COCO": ["annotations/instances_train2017.json", "train2017/0.jpg"],
    "COCO ": ["train/_annotations.coco.json", "train/0.jpg"],
    "YOLO": ["data.yaml", "images/train/0.jpg", "labels/train/0.txt"],
    "YOLO ": ["train/images/0.jpg", "train/labels/0.txt"],
    "Pascal VOC": ["Annotations/0.xml", "JPEGImages/0.jpg", "ImageSets/Main/train.txt"],
}


@pytest.mark.parametrize("called", LAYOUTS)
def test_the_layouts_of_detection_are_named(tmp_path, called):
    for path in LAYOUTS[called]:
        mini.write(tmp_path / path, mini.jpeg(1))
    with pytest.raises(SourceError, match=f"laid out as {called.strip()}.*`labels` FILE"):
        detect_source(tmp_path)


def test_files_of_other_formats_beside_class_folders_are_left_out_as_ever(tmp_path):
    mini.write_folder(tmp_path)
    for name in ("features.npy", "model.pt", "train.tfrecord", "labels.h5", "data.mdb"):
        mini.write(tmp_path / name, tfrecord(b"abc"))
    found = detect_source(tmp_path)
    assert sorted(found.splits) == ["train", "val"]


def test_images_without_an_extension_are_no_other_format(tmp_path):
    for name in ("cat", "dog"):
        mini.write(tmp_path / name / "0001", mini.jpeg(1))
    mini.write(tmp_path / "features.npy", np.zeros(3).tobytes())
    assert detect_source(tmp_path).kind == "folder"
