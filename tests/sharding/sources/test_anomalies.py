"""What is odd in a source is named, or refused where going on would be wrong."""

import os
import re
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.files import list_items
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import find_devkit
from alexstream.sharding.sources.types import Entry
from tests.support import ROOT
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import expected_content, hash_content, list_splits
from tests.support.source_splits import read_split


def notices(src, split="train"):
    return "\n".join(list_splits(src)[split].notices)


def excluded(src, split="train"):
    return dict(list_splits(src)[split].excluded)


def test_the_list_of_classes_is_the_thousand_of_ilsvrc2012():
    assert len(ilsvrc.load_wnids()) == len(set(ilsvrc.load_wnids())) == 1000
    assert list(ilsvrc.load_wnids()) == sorted(ilsvrc.load_wnids())
    assert all(map(ilsvrc.is_wnid, ilsvrc.load_wnids()))
    assert sum(map(ilsvrc.is_dog, ilsvrc.load_wnids())) == 118


@pytest.mark.parametrize("form", mini.FORMS)
def test_a_part_of_ilsvrc2012_is_called_a_part(tmp_path, form):
    mini.FORMS[form](tmp_path)
    assert "partial ILSVRC2012: 3 of 1000 classes, 9 of 1,281,167 images" in notices(tmp_path)
    assert "partial ILSVRC2012: 3 of 1000 classes, 6 of 50,000 images" in notices(tmp_path, "val")


def test_all_of_ilsvrc2012_is_no_notice():
    counts = dict.fromkeys(ilsvrc.load_wnids(), 1281) | dict.fromkeys(ilsvrc.load_wnids()[:167], 1282)
    assert ilsvrc.count_notices(counts, "train") == []
    assert ilsvrc.count_notices(dict.fromkeys(ilsvrc.load_wnids(), 50), "val") == []
    assert ilsvrc.count_notices({"cat": 3, "dog": 4}, "train") == []


def test_ilsvrc_2010_is_named_by_its_count_its_names_and_its_classes():
    assert "ILSVRC-2010" in ilsvrc.count_notices({"n01440764": 1_261_406}, "train")[0]
    assert "ILSVRC-2010" in ilsvrc.count_notices({"n01440764": 3}, "val", named_2010=3)[0]
    assert "ILSVRC-2010" in ilsvrc.count_notices({"n01440764": 3, "n00000001": 4}, "train")[0]


def test_validation_images_of_ilsvrc_2010_do_not_get_labels_of_2012(tmp_path):
    mini.write_archives(tmp_path)
    members = [(p.name.replace("2012", "2010"), p.data) for p in mini.pictures()["val"]]
    mini.write(tmp_path / "ILSVRC2012_img_val.tar", mini.tar_bytes(members))
    with pytest.raises(SourceError, match="ILSVRC-2010"):
        list_splits(tmp_path)


def test_the_devkit_of_another_year_is_refused(tmp_path):
    mini.write_archives(tmp_path, packed=False)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    truth = data / ilsvrc.GROUND_TRUTH
    truth.rename(data / truth.name.replace("2012", "2010"))
    with pytest.raises(SourceError, match="ILSVRC-2010"):
        detect_source(tmp_path)


def test_archives_packed_again_are_named_by_their_size(tmp_path):
    mini.write_archives(tmp_path)
    assert "official archive has 147,897,477,120" in notices(tmp_path)
    assert "official archive has 6,744,924,160" in notices(tmp_path, "val")


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train_t3.tar", "dogs.tar"])
def test_the_archive_of_task_3_is_left_out_and_named(tmp_path, name):
    mini.write_archives(tmp_path)
    inner = mini.tar_bytes([("n02085620_7.JPEG", b"dog")])
    mini.write(tmp_path / name, mini.tar_bytes([("n02085620.tar", inner), ("n02085782.tar", inner)]))
    assert hash_content(tmp_path) == expected_content()
    assert f"{name}: left out" in notices(tmp_path)
    assert "task 3" in excluded(tmp_path)[name]


def test_the_archive_of_task_3_alone_is_no_training_data(tmp_path):
    inner = mini.tar_bytes([("n02085620_7.JPEG", b"dog")])
    mini.write(tmp_path / "ILSVRC2012_img_train_t3.tar", mini.tar_bytes([("n02085620.tar", inner)]))
    with pytest.raises(SourceError, match=r"task 3 .*fetch ILSVRC2012_img_train.tar"):
        detect_source(tmp_path)


def test_two_training_archives_are_not_chosen_between(tmp_path):
    mini.write_train_tar(tmp_path, "one.tar")
    mini.write_train_tar(tmp_path, "two.tar")
    with pytest.raises(SourceError, match=r"one.tar and two.tar"):
        detect_source(tmp_path)


def test_a_class_with_more_images_than_any_has_is_suspicious():
    said = ilsvrc.count_notices({"n02085620": 1450, "n01440764": 1300}, "train")
    assert "n02085620 has 1,450 images" in said[-1]
    assert "train_t3" in said[-1]
    assert "train_t3" not in ilsvrc.count_notices({"n01440764": 1301}, "train")[-1]


def test_a_test_archive_is_left_out_and_named(tmp_path):
    mini.write_archives(tmp_path)
    name = "ILSVRC2012_img_test_v10102019.tar"
    mini.write(tmp_path / name, mini.tar_bytes([("test/ILSVRC2012_test_00000001.JPEG", b"x")]))
    assert f"{name}: left out: test images, which have no labels" in notices(tmp_path)
    assert f"{name}/test/ILSVRC2012_test_00000001.JPEG" in excluded(tmp_path)


@pytest.mark.parametrize("form", ["flat val and an unpacked devkit", "kaggle", "parquet"])
def test_test_images_are_left_out_and_named(tmp_path, form):
    mini.FORMS[form](tmp_path)
    if "flat" in form:
        mini.write(tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG", b"x")
    assert list(detect_source(tmp_path).splits) == ["train", "val"]
    assert re.search(r"left out: [\d,]+ test images?, without labels", notices(tmp_path))
    assert any("test" in path and "no labels" in reason for path, reason in excluded(tmp_path).items())


@pytest.mark.parametrize("form", ["archives", "flat val and an unpacked devkit"])
def test_a_missing_devkit_is_an_error_that_says_what_to_fetch_and_where_to_put_it(tmp_path, form):
    mini.FORMS[form](tmp_path)
    for path in tmp_path.glob("*devkit*"):
        path.rename(tmp_path.parent / f"{tmp_path.name}-away")
    with pytest.raises(SourceError, match=rf"fetch ILSVRC2012_devkit_t12.tar.gz .* into {tmp_path}"):
        detect_source(tmp_path)


def test_a_part_of_the_val_archive_is_labelled_by_its_numbers(tmp_path):
    mini.write_archives(tmp_path)
    mini.write_val_tar(tmp_path, (5, 2))
    want = {key: value for key, value in expected_content()["val"].items() if key[-1] in "25"}
    assert hash_content(tmp_path)["val"] == want
    assert "2 images, where ILSVRC2012_devkit_t12.tar.gz has 6 lines: partial" in notices(tmp_path, "val")


def test_a_val_archive_that_the_ground_truth_cannot_number_is_an_error(tmp_path):
    mini.write_archives(tmp_path)
    mini.write_devkit(tmp_path, packed=True, classes=mini.VAL_CLASSES[:4])
    with pytest.raises(SourceError, match=r"6 images, where .* has 4 lines"):
        list_splits(tmp_path)


def test_a_val_image_that_is_there_twice_is_an_error(tmp_path):
    mini.write_archives(tmp_path)
    mini.write_val_tar(tmp_path, (1, 2, 2, 3, 4, 5))
    with pytest.raises(SourceError, match="twice"):
        list_splits(tmp_path)


def test_a_truncated_archive_says_at_which_byte_it_ends(tmp_path):
    mini.write_archives(tmp_path)
    os.truncate(tmp_path / "ILSVRC2012_img_train.tar", 15_000)
    with pytest.raises(SourceError, match=r"ILSVRC2012_img_train.tar: cut off, it ends at byte 15,000 .* fetch it"):
        list_splits(tmp_path)


def test_a_truncated_inner_archive_is_named(tmp_path):
    inner = mini.inner_tars()[0][1]
    mini.write(tmp_path / "train.tar", mini.tar_bytes([("n01440764.tar", inner[: len(inner) - 10_000])]))
    with pytest.raises(SourceError, match=r"train.tar/n01440764.tar: cut off"):
        list_splits(tmp_path)


def test_links_and_system_files_in_archives_are_excluded_with_their_reason(tmp_path):
    link = tarfile.TarInfo("n01440764_1.JPEG")
    link.type, link.linkname = tarfile.SYMTYPE, "n01440764_2.JPEG"
    inner = mini.tar_bytes([(link, b""), ("__MACOSX/._n01440764_2.JPEG", b"x"), ("n01440764_2.JPEG", b"y")])
    mini.write(tmp_path / "train.tar", mini.tar_bytes([("n01440764.tar", inner), ("readme", b"x")]))
    assert excluded(tmp_path) == {
        "train.tar/n01440764.tar/n01440764_1.JPEG": "symbolic link to 'n01440764_2.JPEG'",
        "train.tar/n01440764.tar/__MACOSX/._n01440764_2.JPEG": "system file",
        "train.tar/readme": "no tar of a class",
    }


def test_a_page_saved_as_an_archive_is_an_error(tmp_path):
    mini.write(tmp_path / "ILSVRC2012_img_train.tar", b"<html>please log in</html>" * 40)
    with pytest.raises(SourceError, match="is not a tar"):
        detect_source(tmp_path)


def test_a_compressed_tar_is_an_error_that_says_so(tmp_path):
    mini.write_devkit(tmp_path, packed=True)
    with pytest.raises(SourceError, match="compressed"):
        detect_source(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")


def test_a_folder_of_compressed_archives_is_an_error_that_says_so(tmp_path):
    mini.write(tmp_path / "train_images_0.tar.zst", b"x")
    with pytest.raises(SourceError, match="compressed"):
        detect_source(tmp_path)


def hub(root, rows, **options):
    root.mkdir(exist_ok=True)
    pq.write_table(mini.hub_table(rows, **options), root / "train-00000-of-00001.parquet", row_group_size=2)


@pytest.mark.parametrize("second", [(1, "n01440764_2_n01440764.JPEG"), (0, "n03126707_2_n03126707.JPEG")])
def test_parquet_labels_that_contradict_the_names_are_an_error(tmp_path, second):
    hub(tmp_path, [(0, "n01440764_1_n01440764.JPEG", b"x"), (*second, b"y")])
    with pytest.raises(SourceError, match="labels and names must agree"):
        list_splits(tmp_path)


def test_other_parquet_sets_have_the_class_names_of_their_metadata(tmp_path):
    hub(tmp_path, [(2, "b.png", b"x"), (0, None, b"y"), (2, None, b"z")], names=["crane", "cat", "crane"])
    train = list_splits(tmp_path)["train"]
    assert train.classes == ("crane (0)", "cat", "crane (2)")
    assert train.table.column("label").to_pylist() == [2, 0, 2]
    assert [key.rpartition("-")[0] for key in train.table.column("key").to_pylist()] == [
        "crane--2-_b",
        "crane--0-_train-00000-of-00001_000001",
        "crane--2-_train-00000-of-00001_000002",
    ]


def test_a_parquet_row_without_label_is_excluded(tmp_path):
    hub(tmp_path, [(0, "a.png", b"x"), (None, "b.png", b"y")])
    assert excluded(tmp_path) == {"train-00000-of-00001.parquet/b.png": "no label"}


def test_parquet_without_images_says_what_it_has(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"no column of images .* it has text"):
        detect_source(tmp_path)


def test_a_truncated_parquet_file_is_an_error(tmp_path):
    hub(tmp_path, [(0, "a.png", b"x")])
    os.truncate(tmp_path / "train-00000-of-00001.parquet", 300)
    with pytest.raises(SourceError, match="no whole Parquet file"):
        detect_source(tmp_path)


_EVERY_DAMAGE = """
import sys
from pathlib import Path
from alexstream.core.errors import SourceError
from tests.support.source_layouts import list_splits

path = Path(sys.argv[1]) / "data" / "train-00000-of-00002.parquet"
whole = path.read_bytes()
refused = 0
for at in range(len(whole) // 2, len(whole)):
    if whole[at] != 2:
        continue
    path.write_bytes(whole[:at] + bytes([18]) + whole[at + 1 :])
    try:
        list_splits(path.parent.parent)
    except SourceError:
        refused += 1
print(refused)
"""


def test_a_damaged_size_in_the_metadata_of_parquet_does_not_end_the_process(tmp_path):
    """pyarrow ends it where a histogram of levels has another length: every byte 2 of the last half becomes 18."""
    mini.write_parquet(tmp_path)
    command = [sys.executable, "-c", _EVERY_DAMAGE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def tars(root, members, name="train-000.tar"):
    mini.write(root / name, mini.tar_bytes(members))


def test_webdataset_labels_that_contradict_the_keys_are_an_error(tmp_path):
    tars(tmp_path, [("n01440764_1.jpg", b"x"), ("n01440764_1.cls", b"0"), ("n01440764_2.jpg", b"x")])
    tars(tmp_path, [("n01440764_3.jpg", b"x"), ("n01440764_3.cls", b"1")], "train-001.tar")
    with pytest.raises(SourceError, match="'n01440764_3' has label 1"):
        list_splits(tmp_path)


def test_webdataset_samples_without_image_or_label_are_excluded(tmp_path):
    tars(
        tmp_path,
        [
            ("a.jpg", b"x"), ("a.json", b'{"label": 3}'), ("a.mask.png", b"m"),
            ("b.jpg", b"x"), ("b.json", b"{}"),
            ("c.cls", b"1"),
        ],
    )  # fmt: skip
    train = list_splits(tmp_path)["train"]
    assert train.classes == ("0", "1", "2", "3")
    assert train.table.column("label").to_pylist() == [3]
    assert dict(train.excluded) == {
        "train-000.tar/a.mask.png": "second image of a sample",
        "train-000.tar/b.jpg": "sample without a label",
        "train-000.tar/b.json": "sample without a label",
        "train-000.tar/c.cls": "sample without an image",
    }
    assert ".json (1)" in "\n".join(train.notices)
    assert "called by their number" in "\n".join(train.notices)


def test_given_classes_or_a_classes_json_name_the_label_numbers(tmp_path):
    tars(tmp_path, [("a.jpg", b"x"), ("a.cls", b"1")])
    found = read_split(detect_source(tmp_path, classes=["cat", "dog"]).splits["train"])
    assert [e.wnid for e in found.entries] == ["dog"]
    mini.write(tmp_path / "classes.json", b'[{"index": 1, "wnid": "owl"}, {"index": 0, "wnid": "elk"}]')
    assert list_splits(tmp_path)["train"].classes == ("elk", "owl")


def test_a_label_beyond_the_classes_is_an_error(tmp_path):
    tars(tmp_path, [("a.jpg", b"x"), ("a.cls", b"7")])
    with pytest.raises(SourceError, match=r"label 7, for which there is no class \(2 known\)"):
        list(read_split(detect_source(tmp_path, classes=["cat", "dog"]).splits["train"]).entries)


def test_equal_keys_in_two_shards_stay_two_samples(tmp_path):
    for shard in ("train-000.tar", "train-001.tar"):
        tars(tmp_path, [("0001.jpg", shard.encode()), ("0001.cls", b"0")], shard)
    assert len(hash_content(tmp_path)["train"]) == 2


def test_webdataset_beside_archives_is_not_chosen_between(tmp_path):
    mini.write_archives(tmp_path)
    tars(tmp_path, [("a.jpg", b"x"), ("a.cls", b"7")])
    with pytest.raises(SourceError, match="move one of the two away"):
        detect_source(tmp_path)


def test_a_kaggle_set_without_its_table_is_an_error(tmp_path):
    mini.write_kaggle(tmp_path)
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(SourceError, match=r"LOC_val_solution.csv is not beside"):
        detect_source(tmp_path)


def test_a_damaged_devkit_is_an_error_of_one_line(tmp_path):
    mini.write_archives(tmp_path, packed=False)
    (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").write_bytes(b"MATLAB 5.0" * 50)
    with pytest.raises(SourceError, match=r"meta.mat cannot be read"):
        detect_source(tmp_path)


def test_a_listing_holds_no_list_of_entries(tmp_path):
    mini.write_archives(tmp_path)
    entries = read_split(detect_source(tmp_path).splits["train"]).entries
    assert next(iter(entries)).wnid == "n01440764"
    assert not isinstance(entries, (list, tuple))
    assert isinstance(next(iter(entries)), Entry)


def test_an_archive_and_a_folder_make_a_source_of_two_splits(tmp_path):
    mini.write_flat_val(tmp_path / "a")
    (tmp_path / "a" / "val").rename(tmp_path / "away")
    mini.write_val_tar(tmp_path / "a")
    assert hash_content(tmp_path / "a") == expected_content()
    assert detect_source(tmp_path / "a").description.endswith("and train/")


def test_folders_unpacked_beside_their_archive_are_asked_about(tmp_path):
    """The folders may have been changed, or hold a part."""
    mini.write_archives(tmp_path)
    mini.write_folder(tmp_path)
    with pytest.raises(SourceError, match=r"\(train/, val/\) lie beside .*`classes_at` 1 .*, or move the folders away"):
        detect_source(tmp_path)


def test_a_class_as_tar_and_as_folder_is_not_chosen_between(tmp_path):
    mini.write_inner_tars(tmp_path)
    mini.write(tmp_path / "train" / "n01440764" / "n01440764_18.JPEG", b"x")
    for src in (tmp_path, tmp_path / "train"):
        with pytest.raises(SourceError, match="move"):
            detect_source(src)


def test_a_devkit_as_plain_tar_serves_and_is_accounted_for(tmp_path):
    mini.write_archives(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    mini.write(tmp_path / "devkit.tar", mini.tar_bytes(list(mini.devkit_files().items())))
    assert hash_content(tmp_path) == expected_content()
    assert excluded(tmp_path) == {"devkit.tar": "development kit, no images"}


def test_a_stray_tar_beside_class_folders_is_excluded(tmp_path):
    mini.write_folder(tmp_path)
    mini.write(tmp_path / "train.backup.tar", mini.tar_bytes([("notes.txt", b"x")]))
    assert hash_content(tmp_path) == expected_content()
    assert excluded(tmp_path) == {"train.backup.tar": "not inside a class folder"}


@pytest.mark.parametrize("form", mini.FORMS)
def test_a_source_in_an_object_store_gives_the_same(tmp_path, form):
    upath = pytest.importorskip("upath")
    mini.FORMS[form](tmp_path)
    store = upath.UPath(f"memory://{tmp_path.name}-{abs(hash(form))}")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            target = store / file.relative_to(tmp_path).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert hash_content(store) == expected_content()


def test_images_whose_names_tell_their_class_need_no_devkit(tmp_path):
    for split, name in (("train", "train_images_0.tar"), ("val", "val_images.tar")):
        members = [(p.name.replace(".JPEG", f"_{p.wnid}.JPEG"), p.data) for p in mini.pictures()[split]]
        mini.write(tmp_path / name, mini.tar_bytes(members))
    assert hash_content(tmp_path) == expected_content()


def test_parquet_labels_without_names_keep_their_numbers(tmp_path):
    rows = [(5, "a.png", b"x"), (2, "b.png", b"y")]
    hub(tmp_path, rows)
    table = pq.read_table(tmp_path / "train-00000-of-00001.parquet").replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    assert list_splits(tmp_path)["train"].table.column("label").to_pylist() == [5, 2]
    found = read_split(detect_source(tmp_path, classes=list("abcdef")).splits["train"])
    assert [entry.wnid for entry in found.entries] == ["f", "c"]


def test_a_split_can_be_listed_twice(tmp_path):
    mini.write_webdataset(tmp_path)
    find = detect_source(tmp_path, classes=mini.WNIDS).splits["train"]
    first, second = read_split(find), read_split(find)
    assert list(first.entries) == list(second.entries)
    assert first.log == second.log and first.log is not second.log


def test_annotations_in_a_tar_of_class_folders_do_not_make_it_a_webdataset(tmp_path):
    members = [("train/info.json", b"{}"), ("train/n01440764/n01440764_1.JPEG", b"x")]
    mini.write(tmp_path / "train.tar", mini.tar_bytes(members))
    assert excluded(tmp_path) == {"train.tar/train/info.json": "not inside a class folder"}


@pytest.mark.parametrize("packed", [True, False])
def test_the_nodes_above_the_classes_are_no_classes_of_the_devkit(tmp_path, packed):
    mini.write_devkit(tmp_path, packed=packed)
    name, kit = find_devkit(tmp_path, list_items(tmp_path))
    assert (kit.ids, kit.names) == (mini.IDS, mini.WORDS)
    assert name.startswith("ILSVRC2012_devkit_t12")
    assert kit.val_labels().in_order == list(mini.VAL_CLASSES)
