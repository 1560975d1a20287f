"""Listing a class-per-folder source: labels, keys, exclusions, errors."""

import pytest

from sharding.errors import SourceError
from sharding.source import assign_keys, list_source, split_folders


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def test_labels_are_positions_of_sorted_class_names(tmp_path):
    source = list_source(make(tmp_path, "n02/b.jpg", "n01/a.jpg", "n02/c.jpg"))
    assert source.classes == ("n01", "n02")
    assert [(i.path, i.label) for i in source.images] == [("n01/a.jpg", 0), ("n02/b.jpg", 1), ("n02/c.jpg", 1)]


def test_numeric_class_names_sort_as_numbers(tmp_path):
    assert list_source(make(tmp_path, "10/a.jpg", "2/a.jpg", "1/a.jpg")).classes == ("1", "2", "10")


def test_files_in_nested_folders_are_found(tmp_path):
    assert [i.key for i in list_source(make(tmp_path, "cat/2019/may/a.jpg")).images] == ["cat_2019_may_a"]


def test_system_files_and_stray_files_are_excluded_and_listed(tmp_path):
    source = list_source(make(tmp_path, "cat/a.jpg", "cat/.DS_Store", "cat/Thumbs.db", "readme.txt", ".git/x"))
    assert [i.path for i in source.images] == ["cat/a.jpg"]
    assert source.excluded == (
        (".git", "system file"),
        ("cat/.DS_Store", "system file"),
        ("cat/Thumbs.db", "system file"),
        ("readme.txt", "not inside a class folder"),
    )


def test_an_empty_class_folder_keeps_its_label(tmp_path):
    (tmp_path / "a").mkdir()
    assert list_source(make(tmp_path, "b/x.jpg")).images[0].label == 1


def test_given_classes_fix_the_labels(tmp_path):
    source = list_source(make(tmp_path, "b/x.jpg"), classes=["a", "b", "c"])
    assert source.images[0].label == 1


def test_a_class_unknown_to_the_given_order_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="'z'"):
        list_source(make(tmp_path, "z/x.jpg"), classes=["a", "b"])


def test_missing_empty_and_file_sources_are_errors(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        list_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="is empty"):
        list_source(tmp_path)
    make(tmp_path, "file.jpg")
    with pytest.raises(SourceError, match="is a file"):
        list_source(tmp_path / "file.jpg")
    with pytest.raises(SourceError, match="no images found"):
        list_source(tmp_path)


def test_a_source_with_train_and_val_is_two_splits(tmp_path):
    make(tmp_path, "train/a/x.jpg", "val/a/y.jpg", ".cache/z")
    assert split_folders(tmp_path) == {"train": tmp_path / "train", "val": tmp_path / "val"}


def test_validation_and_valid_mean_val(tmp_path):
    make(tmp_path, "train/a/x.jpg", "validation/a/y.jpg")
    assert split_folders(tmp_path) == {"train": tmp_path / "train", "val": tmp_path / "validation"}


@pytest.mark.parametrize("other", ["extra/a/z.jpg", "valid/a/z.jpg"])
def test_folders_beside_the_splits_are_neither_classes_nor_lost(tmp_path, other):
    make(tmp_path, "train/a/x.jpg", "val/a/y.jpg", other)
    with pytest.raises(SourceError, match=other.split("/")[0]):
        split_folders(tmp_path)


def test_a_class_called_train_does_not_make_a_split(tmp_path):
    assert split_folders(make(tmp_path, "train/x.jpg", "plane/y.jpg")) == {}


def test_imagenet_names_are_keys_as_they_are():
    paths = ["n01440764/n01440764_10026.JPEG", "n01440764/ILSVRC2012_val_00000293.JPEG"]
    assert assign_keys(paths) == ["n01440764_10026", "ILSVRC2012_val_00000293"]


def test_unsafe_long_and_colliding_names_get_unique_safe_keys():
    paths = ["c/a.b.jpg", "c/a b.jpg", "c/ä.jpg", "c/x.jpg", "c/x.png", "c/X.jpg", f"c/{'y' * 200}.jpg", "c/plain.jpg"]
    keys = assign_keys(paths)
    assert len({key.lower() for key in keys}) == len(paths)
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for key in keys)
    assert max(map(len, keys)) < 95
    assert keys[-1] == "c_plain"
