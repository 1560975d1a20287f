"""What a tar is taken for, by its members, and other first looks at a source; names and results written down here."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import has_system_part
from alexstream.sharding.sources.imagenet.kaggle import load_kaggle_labels
from alexstream.sharding.sources.parquet import RowGroupImages
from alexstream.sharding.sources.parquet_file import SourceParquet
from alexstream.sharding.sources.tars.kind import detect_tar_kind
from alexstream.sharding.sources.types import DetectedSource
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import list_splits


@pytest.mark.parametrize(
    ("name", "members", "kind"),
    [
        ("n01440764.tar", [], "class"),  # a class of ImageNet without images
        ("other.tar", [], "empty"),
        ("photos.tar", ["cat/1.jpg", "cat/2.jpg"], "folders"),  # one folder, whose name may be a class
        ("photos.tar", ["cat/1.jpg", "dog/2.jpg"], "folders"),
        ("n01440764.tar", ["1.jpg", "2.jpg"], "class"),
        ("photos.tar", ["1.jpg", "2.jpg"], "unlabelled"),
        ("photos.tar", ["ILSVRC2012_val_00000001.JPEG"], "val"),
        ("photos.tar", ["1.jpg", "1.cls"], "samples"),
    ],
)
def test_a_tar_is_known_by_its_members(tmp_path, name, members, kind):
    mini.write(tmp_path / name, mini.tar_bytes([(member, b"x") for member in members]))
    assert detect_tar_kind(tmp_path / name) == kind


def test_splits_come_in_the_order_train_val_test():
    found = DetectedSource(kind="", description="", splits=dict.fromkeys(("test", "val", "train"), list))
    assert list(found.splits) == ["train", "val", "test"]


SOLUTION = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"


def test_a_row_of_kaggle_s_table_names_one_class_with_its_boxes(tmp_path):
    mini.write(tmp_path / "LOC_val_solution.csv", SOLUTION.encode())
    assert load_kaggle_labels(tmp_path).by_stem == {"ILSVRC2012_val_00000001": "n01440764"}


@pytest.mark.parametrize(
    "row",
    [
        "ILSVRC2012_val_00000001,n01443537 1 2 3 4",  # a name that came before
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4 n01443537 5 6 7 8",
        "ILSVRC2012_val_00000002,",
    ],
)
def test_a_row_of_two_classes_or_none_or_of_a_name_that_came_before_is_refused(tmp_path, row):
    mini.write(tmp_path / "LOC_val_solution.csv", f"{SOLUTION}{row}\n".encode())
    with pytest.raises(SourceError, match=r"line 3 .* names . classes or a name that came before"):
        load_kaggle_labels(tmp_path)


def test_rows_of_parquet_may_be_asked_for_in_any_order(tmp_path, monkeypatch):
    images = [{"bytes": bytes([row]) * 3, "path": f"{row}.png"} for row in range(9)]
    pq.write_table(pa.table({"image": images, "label": list(range(9))}), tmp_path / "train.parquet")
    monkeypatch.setattr("alexstream.sharding.sources.parquet._IMAGE_BATCH_ROWS", 2)
    rows = RowGroupImages(SourceParquet(tmp_path / "train.parquet"), 0)
    for row in (0, 7, 3, 8, 2, 2, 0):
        assert rows[row] == bytes([row]) * 3


def test_the_image_of_a_sample_is_the_one_without_a_further_name(tmp_path):
    """``1.mask.png`` is no image of its own where there is a ``1.png``, wherever the two stand in the tar."""
    members = [("1.mask.png", b"mask"), ("1.png", b"image"), ("1.cls", b"0"), ("2.png", b"image"), ("2.cls", b"1")]
    mini.write(tmp_path / "train-000000.tar", mini.tar_bytes(members))
    table = list_splits(tmp_path)["train"].table
    content = (tmp_path / "train-000000.tar").read_bytes()
    for offset, size in zip(table["offset"].to_pylist(), table["size"].to_pylist(), strict=True):
        assert content[offset : offset + size] == b"image"


@pytest.mark.parametrize("path", ["@eaDir/1.jpg", "a/.git/b.jpg", "a/b/.DS_Store", "__MACOSX/a/1.jpg", "a/1.jpg~"])
def test_what_lies_in_a_folder_of_the_system_belongs_to_it(path):
    assert has_system_part(path)


@pytest.mark.parametrize("path", ["./a/1.jpg", "../a/1.jpg", "a/eaDir/1.jpg", "a.b/1.jpg"])
def test_steps_and_ordinary_names_do_not(path):
    assert not has_system_part(path)


def test_names_of_imagenet_s_validation_images_tell_no_class(tmp_path):
    """Their labels are numbers then, in a tar of WebDataset as elsewhere."""
    members = [
        (f"ILSVRC2012_val_{i:08d}.{end}", data)
        for i in (1, 2)
        for end, data in (("jpg", b"x"), ("cls", b"%d" % (i - 1)))
    ]
    mini.write(tmp_path / "train-000000.tar", mini.tar_bytes(members))
    assert list_splits(tmp_path)["train"].classes == ("0", "1")


def test_labels_beyond_a_million_are_ids_of_another_kind(tmp_path):
    members = [(f"{i}.{end}", data) for i in (0, 1_000_001) for end, data in (("jpg", b"x"), ("cls", b"%d" % i))]
    mini.write(tmp_path / "train-000000.tar", mini.tar_bytes(members))
    with pytest.raises(SourceError, match="labels go up to 1,000,001: no numbers of classes"):
        list_splits(tmp_path)
