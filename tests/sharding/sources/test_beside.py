"""Folders of images beside archives, WebDataset tars, Parquet files or data sets: read, or asked about, never lost."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.overview import format_left_out
from alexstream.sharding.pack import shard
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import TAR, make_files, pack_tar, read_classes

ANTS = ["ant/1.jpg", "ant/2.jpg", "bee/3.jpg"]
CLASSES = {"ant", "bee"}


def tar_of_tars():
    inner = {"ant.tar": ["1.jpg", "2.jpg"], "bee.tar": ["3.jpg"]}
    return mini.tar_bytes([(name, mini.tar_bytes([(p, b"x") for p in paths])) for name, paths in inner.items()])


def parquet(path, labels=("ant", "ant", "bee")):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": mini.jpeg(i), "path": f"{i}.jpg"} for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": list(labels)}), path)


def webdataset(path, labels=("ant", "ant", "bee")):
    samples = [(f"{i}.{end}", data) for i, w in enumerate(labels) for end, data in (("jpg", b"x"), ("cls", w.encode()))]
    mini.write(path, mini.tar_bytes(samples))


def data_set(path, split="train"):
    images = path.parent / "images-of-a-data-set"
    for i, wnid in enumerate(("ant", "ant", "bee")):
        mini.write(images / wnid / f"{i}.jpg", mini.jpeg(i))
    shard(images, path, num_workers=1, split=split)
    for file in sorted(images.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    images.rmdir()


def left_out(src, **options):
    (plan, *_) = plan_splits(ShardRequest(source=src, folder=Path("/nowhere/out"), **options))
    return format_left_out(plan.listing.excluded)


def by_split(src, **options):
    return {split: sorted(images.values()) for split, images in read_classes(src, **options).items()}


# what lies beside the class folders; its path, which is also what ``--src`` chooses; each holds 3 images
FORMS = {
    "a tar of class folders": ("backup.tar", lambda path: pack_tar(path, *ANTS)),
    "a tar of a folder of class folders": ("backup.tar", lambda path: pack_tar(path, *(f"photos/{p}" for p in ANTS))),
    "a tar of the training split": ("train.tar", lambda path: pack_tar(path, *ANTS)),
    "a tar of tars": ("all.tar", lambda path: mini.write(path, tar_of_tars())),
    "a WebDataset tar": ("train-0.tar", webdataset),
    "a WebDataset tar of no split": ("backup.tar", webdataset),
    "a Parquet file": ("train.parquet", parquet),
    "a Parquet file of no split": ("all.parquet", parquet),
    "a data set": ("shards", data_set),
    "a data set in the folder of its split": ("shards/train", data_set),
}


@pytest.mark.parametrize("above", ["", "photos/"])
@pytest.mark.parametrize("name", FORMS)
def test_class_folders_beside_another_form_are_asked_about(tmp_path, name, above):
    path, write = FORMS[name]
    src = make_files(tmp_path / "set", *(f"{above}{p}" for p in ANTS))
    write(src / above / path)
    with pytest.raises(SourceError, match=r"folders of images .*ant/, .*bee/\) lie beside") as error:
        read_classes(src)
    said = str(error.value)
    assert "\n" not in said
    alone = src / above / path
    chosen = next(place for place in (alone, alone.parent) if f"`source` {place} for that alone" in said)
    assert by_split(chosen) == {"train": ["ant", "ant", "bee"]}
    source = src / above if f"`source` {src}/{above.rstrip('/')} `classes_at`" in said else src
    level = int(said.partition("`classes_at` ")[2][0])
    found = read_classes(source, classes_at=level)
    inside = above if source == src else ""
    assert found == {"train": {f"{inside}{p}": p.split("/")[0] for p in ANTS}}
    counted = [note for note in left_out(source, classes_at=level) if "left out: 3 × " in note]
    assert len(counted) == 1, left_out(source, classes_at=level)


PACKED_SPLIT = {
    "tar": ("train.tar", lambda path: pack_tar(path, *ANTS)),
    "WebDataset": ("train-0.tar", webdataset),
    "Parquet": ("train.parquet", parquet),
    "data set": ("shards/train", data_set),
}


@pytest.mark.parametrize("name", PACKED_SPLIT)
def test_the_folders_of_the_split_that_is_packed_beside_them_are_asked_about(tmp_path, name):
    path, write_form = PACKED_SPLIT[name]
    src = make_files(tmp_path / "set", *(f"train/{p}" for p in ANTS), *(f"val/{p}" for p in ANTS))
    write_form(src / path)
    with pytest.raises(SourceError, match=r"`classes_at` 1 for the class folders in train/, val/") as error:
        read_classes(src)
    assert "\n" not in str(error.value)
    assert by_split(src, classes_at=1) == {"train": ["ant", "ant", "bee"], "val": ["ant", "ant", "bee"]}
    assert any("3 ×" in note for note in left_out(src, classes_at=1))


FOLDER_AND_PACKED = [("train", "val"), ("val", "train"), ("Validation", "train"), ("test", "train")]


@pytest.mark.parametrize("folder, packed", FOLDER_AND_PACKED)
@pytest.mark.parametrize("form", ["tar", "tars", "parquet", "webdataset"])
def test_a_folder_of_the_split_that_another_form_lacks_is_read_with_it(tmp_path, form, folder, packed):
    src = make_files(tmp_path / "set", *(f"{folder}/{p}" for p in ANTS), "docs/readme.md")
    if form == "tar":
        pack_tar(src / f"{packed}.tar", *ANTS)
    elif form == "tars":
        inner = [(f"{wnid}.tar", mini.tar_bytes([("1.jpg", b"1")])) for wnid in sorted(CLASSES)]
        mini.write(src / f"{packed}.tar", mini.tar_bytes(inner))
    elif form == "parquet":
        parquet(src / f"{packed}-00000-of-00001.parquet")
    else:
        webdataset(src / f"{packed}-000.tar")
    found = read_classes(src)
    split = {"Validation": "val"}.get(folder, folder)
    assert set(found) == {split, packed}
    assert found[split] == {f"{folder}/{p}": p.split("/")[0] for p in ANTS}
    assert set(found[packed].values()) == CLASSES
    (plan, *_) = plan_splits(ShardRequest(source=src, folder=tmp_path / "out"))
    assert ("docs", "folder without images") in plan.listing.excluded


@pytest.mark.parametrize("name", ["data.tar", "data.parquet", "data-000.tar"])
def test_a_form_of_no_split_beside_a_split_s_folder_is_no_training_data(tmp_path, name):
    """The files may hold all images, and those of the folder once more."""
    src = make_files(tmp_path / "set", *(f"val/{p}" for p in ANTS))
    {"data.tar": lambda p: pack_tar(p, *ANTS), "data.parquet": parquet, "data-000.tar": webdataset}[name](src / name)
    with pytest.raises(SourceError, match=r"folders of images \(val/\) lie beside") as error:
        read_classes(src)
    assert "\n" not in str(error.value)
    assert by_split(src, split="train") == {"train": ["ant", "ant", "bee"]}


@pytest.mark.parametrize("form", ["tar", "parquet", "webdataset"])
def test_test_images_beside_another_form_are_left_out_one_by_one(tmp_path, form):
    src = make_files(tmp_path / "set", *(f"test/{i}.jpg" for i in range(4)))
    {"tar": lambda p: pack_tar(p, *ANTS), "parquet": parquet, "webdataset": webdataset}[form](
        src / ("train.parquet" if form == "parquet" else "train.tar")
    )
    assert left_out(src) == ["NOTE left out: 4 × test images, which have no labels, the first: test/0.jpg"]


@pytest.mark.parametrize("name", ["tar", "WebDataset", "Parquet"])
def test_an_image_beside_the_files_that_are_read_is_called_an_image(tmp_path, name):
    path, write_form = PACKED_SPLIT[name]
    write_form(make_files(tmp_path / "set", "docs/notes.txt", "1.jpg") / path)
    assert "NOTE left out: 1 × image without a label, in no class folder, the first: 1.jpg" in left_out(
        tmp_path / "set"
    )


def test_folders_beside_tars_that_are_classes_count_as_their_images(tmp_path):
    src = make_files(tmp_path / "set", *ANTS)
    pack_tar(src / "cow.tar", "1.jpg")
    pack_tar(src / "dog.tar", "x/1.jpg")
    assert by_split(src, classes_at=TAR) == {"train": ["cow", "dog"]}
    assert left_out(src, classes_at=TAR) == [
        "NOTE left out: 3 × in a folder beside the tars that are classes, the first: ant/1.jpg"
    ]


@pytest.mark.parametrize("above", ["", "photos/"])
def test_an_archive_beside_class_folders_counts_as_its_images(tmp_path, above):
    """Flat images have no labels, so that only the folders can be meant."""
    src = make_files(tmp_path / "set", *(f"{above}{p}" for p in ANTS))
    pack_tar(src / f"{above}rest.tar", *(f"{i}.jpg" for i in range(5)), "notes.txt")
    pack_tar(src / f"{above}texts.tar", "notes.txt")
    assert by_split(src) == {"train": ["ant", "ant", "bee"]}
    assert left_out(src) == [
        f"NOTE left out: 5 × in an archive beside what is read, the first: {above}rest.tar",
        f"NOTE left out: 1 × not inside a class folder, the first: {above}texts.tar",
    ]


def test_a_second_archive_counts_as_its_images(tmp_path):
    mini.write_train_tar(tmp_path)
    mini.write(tmp_path / "a-copy.tar", (tmp_path / "ILSVRC2012_img_train.tar").read_bytes())
    (note,) = left_out(tmp_path)
    assert note.startswith("NOTE left out: 9 × a second tar of tars")


def test_photos_added_beside_an_older_data_set_of_ours_are_not_forgotten(tmp_path):
    """A set that lies in its source, and photos that came since: the old set is not made once more."""
    src = tmp_path / "set"
    for path in ANTS:
        mini.write(src / path, mini.jpeg(len(path)))
    shard(src, tmp_path / "shards", num_workers=1)
    (tmp_path / "shards").rename(src / "shards")
    mini.write(src / "ant/new.jpg", mini.jpeg(9))
    with pytest.raises(SourceError, match="lie beside DATASET v1"):
        read_classes(src)
    assert set(read_classes(src, classes_at=1)["train"]) == {*ANTS, "ant/new.jpg"}
    assert by_split(src / "shards") == {"train": ["ant", "ant", "bee"]}


def test_a_foreign_manifest_does_not_make_a_class_a_data_set(tmp_path):
    src = make_files(tmp_path / "set", *ANTS)
    mini.write(src / "ant/manifest.json", b'{"name": "a web app"}')
    found = read_classes(src)["train"]
    assert {path for path in found if path.endswith(".jpg")} == set(ANTS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_named_with_a_remedy(tmp_path):
    src = make_files(tmp_path / "set", *ANTS)
    (src / "bee").chmod(0)
    try:
        with pytest.raises(SourceError, match=r"cannot list .*/bee: .*ermission denied; .*fix that and run again"):
            read_classes(src)
    finally:
        (src / "bee").chmod(0o755)


@pytest.mark.parametrize("place", ["", "ant/"])
@pytest.mark.parametrize("names", [("la", "lb"), ("la.jpg", "lb.jpg"), ("la", "lb", "lc")])
def test_links_that_lead_back_to_themselves_are_left_out_and_named(tmp_path, place, names):
    src = make_files(tmp_path / "set", *ANTS)
    for one, two in zip(names, (*names[1:], names[0]), strict=True):
        (src / place / one).symlink_to(two)
    assert read_classes(src) == {"train": {p: p.split("/")[0] for p in ANTS}}
    assert left_out(src) == [
        f"NOTE left out: {len(names)} × link that leads back to itself, the first: {place}{names[0]}"
    ]


@pytest.mark.parametrize("above", ["", "tiny-imagenet-200/", "data/tiny-imagenet-200/"])
def test_tiny_imagenet_is_found_below_the_folders_around_it(tmp_path, above):
    src, wnids = tmp_path / "set", ("n01443537", "n01629819")
    make_files(src, *(f"{above}train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in wnids for i in (0, 1)))
    make_files(src, *(f"{above}val/images/val_{i}.JPEG" for i in (0, 1)), f"{above}words.txt")
    rows = "".join(f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate(wnids))
    mini.write(src / f"{above}val/val_annotations.txt", rows.encode())
    found = read_classes(src)
    assert found["val"] == {f"{above}val/images/val_{i}.JPEG": wnid for i, wnid in enumerate(wnids)}
    assert found["train"] == {f"{above}train/{wnid}/images/{wnid}_{i}.JPEG": wnid for wnid in wnids for i in (0, 1)}


def test_pascal_voc_is_named_below_the_folders_around_it(tmp_path):
    make_files(tmp_path / "set", "VOCdevkit/VOC2012/JPEGImages/1.jpg", "VOCdevkit/VOC2012/Annotations/1.xml")
    with pytest.raises(SourceError, match="is laid out as Pascal VOC"):
        read_classes(tmp_path / "set")


@pytest.mark.parametrize("paths", [["ant/", "bee/"], ["train/ant/1.jpg", "train/bee/1.jpg", "val/ant/", "val/bee/"]])
def test_a_source_or_a_split_without_images_says_what_to_do(tmp_path, paths):
    with pytest.raises(SourceError, match=r"no images found .*; expected .*add them, .*another split with `split`"):
        read_classes(make_files(tmp_path / "set", *paths))


# what lies in the source, as paths; ``.tar`` holds images in class folders, ``flat`` ones and ``.parquet`` images
LOST = {
    "Parquet beside another split's tar": (["train.parquet", "val.tar"], r"`source` .*train\.p.*`source` .*val\.tar"),
    "Parquet beside WebDataset": (["wds/train-0.tar", "val.parquet"], r"`source` .*/val\.parquet .*`source`"),
    "Parquet beside a data set": (["shards/", "train.parquet"], r"`source` .*/train\.parquet .*`source` .*/shards "),
    "a tar beside a data set": (["shards/", "more.tar"], r"`source` .*/more\.tar .*`source` .*/shards "),
    "a folder of Parquet beside a tar": (["data/train.parquet", "val.tar"], r"`source` .*/data .*`source` .*/val\.tar"),
    "a folder of tars beside a tar": (["train.tar", "old/train.tar"], r"`source` .*/old .*`source` .*/train\.tar"),
    "a folder of tars beside class folders": (["ant/1.jpg", "bee/1.jpg", "old/all.tar"], r"\(old\).*`classes_at` 1"),
    "tars of classes beside class folders": (
        ["ant/1.jpg", "bee/1.jpg", "flat/cow.tar", "flat/dog.tar"], r"`classes_at` 1.*`classes_at` 0 for 2 .*unpack",
    ),
    "a class tar beside a compressed one": (["compressed.tar"], r"bee\.tar\.gz is compressed.*unpack"),
}  # fmt: skip


def write_lost(src, path):
    name = path.rpartition("/")[2]
    if path == "shards/":
        data_set(src / path)
    elif path.startswith("flat/"):
        pack_tar(src / name, "1.jpg", "2.jpg")
    elif path.startswith("wds/"):
        webdataset(src / name)
    elif path == "compressed.tar":
        mini.write(src / path, mini.tar_bytes([("ant.tar", mini.tar_bytes([("1.jpg", b"1")])), ("bee.tar.gz", b"x")]))
    elif name.endswith(".tar"):
        pack_tar(src / path, *ANTS)
    elif name.endswith(".parquet"):
        parquet(src / path)
    else:
        make_files(src, path)


@pytest.mark.parametrize("name", LOST)
def test_images_in_a_second_form_are_not_lost(tmp_path, name):
    paths, words = LOST[name]
    for path in paths:
        write_lost(tmp_path / "set", path)
    with pytest.raises(SourceError, match=words) as error:
        read_classes(tmp_path / "set")
    assert "\n" not in str(error.value)


def test_flat_tars_of_splits_beside_class_folders_are_no_classes(tmp_path):
    make_files(tmp_path / "set", *(f"train/{p}" for p in ANTS))
    for name in ("val", "test"):
        pack_tar(tmp_path / "set" / f"{name}.tar", "1.jpg", "2.jpg")
    assert by_split(tmp_path / "set") == {"train": ["ant", "ant", "bee"]}
    assert left_out(tmp_path / "set") == ["NOTE left out: 4 × in an archive beside what is read, the first: test.tar"]


def test_images_below_a_folder_that_is_stepped_over_are_read_where_they_lie(tmp_path):
    src = make_files(tmp_path / "set", *(f"photos/val/{p}" for p in ANTS), "photos/README.md", "LICENSE")
    pack_tar(src / "photos/train.tar", *ANTS)
    contents = {}
    for plan in plan_splits(ShardRequest(source=src, folder=tmp_path / "out")):
        reader = Reader(src)
        for row in plan.listing.table.to_pylist():
            container = row["container"] or row["path"]
            contents[row["path"].decode()] = reader.read(container.decode(), row["offset"], row["size"]).data.decode()
    of_folder, of_tar = {f"photos/val/{p}": f"photos/val/{p}" for p in ANTS}, {f"photos/train.tar/{p}": p for p in ANTS}
    assert contents == {**of_folder, **of_tar}
    (plan, *_) = plan_splits(ShardRequest(source=src, folder=tmp_path / "out"))
    assert sorted(plan.listing.excluded) == [
        ("LICENSE", "not inside a class folder"),
        ("photos/README.md", "no archive of images"),
    ]


def test_an_archive_in_a_class_folder_counts_as_its_images(tmp_path):
    pack_tar(make_files(tmp_path / "set", *ANTS) / "ant/more.tar", *(f"{i}.jpg" for i in range(4)))
    assert by_split(tmp_path / "set") == {"train": ["ant", "ant", "bee"]}
    assert left_out(tmp_path / "set") == [
        "NOTE left out: 4 × in an archive in a class folder: unpack it, the first: ant/more.tar"
    ]
