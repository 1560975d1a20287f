"""The shards as other libraries see them: wids, timm and Hugging Face ``datasets`` (webdataset, DALI: test_pack)."""

import hashlib
import io
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import load_manifest

SPLITS = ("train", "val")


def catalog(folder):
    """(key, label, sha256 of the image) of every sample, in the order of the shards."""
    rows = load_catalog(folder, load_manifest(folder), ("key", "label", "stored_sha256"))
    return list(zip(rows["key"], rows["label"], rows["stored_sha256"], strict=True))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def pixels(folder):
    """(label, sha256 of the decoded image) of every sample, in the order of the shards."""
    manifest = load_manifest(folder)
    rows = load_catalog(folder, manifest, ("shard", "offset", "size", "label"))
    tars = {s.name: (folder / f"{s.name}.tar").read_bytes() for s in manifest.shards}
    places = zip(rows["shard"], rows["offset"], rows["size"], strict=True)
    images = [Image.open(io.BytesIO(tars[shard][offset:][:size])) for shard, offset, size in places]
    return [(label, sha256(image.tobytes())) for label, image in zip(rows["label"], images, strict=True)]


def wids_data(wids, folder, split):
    """The set, its members undecoded."""
    index = str(folder / f"{split}.json")
    return wids.ShardListDataset(index, cache_dir=str(folder), keep=True, transformations=lambda sample: sample)


@pytest.mark.parametrize("split", SPLITS)
def test_wids_reads_every_sample_by_number_from_the_folder_itself(sample_shards, split):
    wids = pytest.importorskip("wids", reason="wids is not installed (extra: dev)")
    folder = sample_shards / split
    before = sorted(folder.iterdir())
    data = wids_data(wids, folder, split)
    samples = [data[i] for i in range(len(data))]
    data.close()
    read = [(s["__key__"], int(s[".cls"].read()), sha256(s[".jpg"].read())) for s in samples]
    assert read == catalog(folder)
    assert {Path(s["__shard__"]).parent for s in samples} == {folder}
    assert sorted(folder.iterdir()) == before


def test_wids_finds_the_counts_and_sizes_of_its_index_true(sample_shards):
    wids = pytest.importorskip("wids", reason="wids is not installed (extra: dev)")
    data = wids_data(wids, sample_shards / "train", "train")
    for shard in data.shards:
        assert Path(shard["url"]).stat().st_size == shard["filesize"]
        with open(shard["url"], "rb") as stream:
            tar = wids.wids.IndexedTarSamples(path=shard["url"], stream=stream, expected_size=shard["nsamples"])
            tar.close()


@pytest.fixture(scope="module")
def timm_data():
    """``timm.data``.

    timm imports torchvision, whose published build does not find its compiled operators beside a torch for the CPU
    alone and then refuses to be imported. The two names that it looks for are declared here, without code behind them:
    no operator of torchvision takes part in reading, and torchvision and timm are the real ones.
    """
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (extra: dev)")
    torch = pytest.importorskip("torch")
    operators = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("timm.data"), operators  # the names last as long as ``operators``


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("val", "val"), ("val", "validation")])
def test_timm_reads_every_sample(sample_shards, timm_data, split, name):
    from timm.data.readers.reader_wds import ReaderWds

    folder = sample_shards / split
    reader = ReaderWds(str(folder), split=name)
    read = [(label, sha256(image.tobytes())) for image, label in reader]
    assert len(reader) == len(read)
    assert read == pixels(folder)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_timm_makes_its_data_set_of_the_folder(sample_shards, timm_data):
    data = timm_data[0].create_dataset("wds/sample", root=str(sample_shards / "val"), split="validation")
    assert [label for _, label in data] == [label for _, label, _ in catalog(sample_shards / "val")]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """Hugging Face ``datasets``, kept from the network and from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hugging-face")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed (extra: dev)")
        datasets.disable_progress_bars()
        yield datasets


def check_hugging_face(datasets, data, folder):
    data = data.cast_column("jpg", datasets.Image(decode=False))
    assert [(row["__key__"], row["cls"], sha256(row["jpg"]["bytes"])) for row in data] == catalog(folder)


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("val", "validation")])
def test_hugging_face_reads_every_sample_of_the_folder(sample_shards, hugging_face, split, name):
    folder = sample_shards / split
    data = hugging_face.load_dataset(str(folder))
    assert list(data) == [name]
    assert data[name].features["cls"] == hugging_face.Value("int64")
    assert data[name][0]["jpg"].size == (256, 256)
    check_hugging_face(hugging_face, data[name], folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_reads_every_sample_of_the_tars(sample_shards, hugging_face, streaming):
    folder = sample_shards / "train"
    tars = [str(folder / f"{s.name}.tar") for s in load_manifest(folder).shards]
    data = hugging_face.load_dataset("webdataset", data_files={"train": tars}, streaming=streaming)
    check_hugging_face(hugging_face, data["train"], folder)
