"""Labels in tables, as people write them: each image gets the class of its row, or one line says what does not fit."""

import json

import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding import listing
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.labels.label_table import parse_label_options
from tests.support import imagenet_miniature as mini
from tests.support.source_splits import read_split

LABELS = {"00000": "pug", "00001": "red fox", "00002": "pug", "00003": "owl", "00004": "red fox"}


def write_images(folder, names=LABELS, ending=".jpg"):
    for i, name in enumerate(names):
        mini.write(folder / f"{name}{ending}", mini.jpeg(i))


def asked(path, columns="", *, partial=False):
    return parse_label_options(path, columns, partial=partial)


def classes(src, table=None, columns="", *, partial=False, **options):
    """Split → path → class, as they would be converted."""
    labels = asked(table, columns, partial=partial) if table else None
    found = detect_source(src, options.get("classes"), split=options.get("split", ""), labels=labels).splits
    out, order = {}, options.get("classes")
    for split, find in found.items():
        lst = listing.build_listing(find, order, where=str(src))
        order = order or lst.classes
        out[split] = {image.path: image.wnid for image in listing.iter_images(lst.table, lst.classes)}
    return out


def flat(prefix="", ending=".jpg", labels=LABELS):
    return {f"{prefix}{name}{ending}": label for name, label in labels.items()}


HEADERS = ["file,class", "filename,label", "file_name,label", "File Name,Category", "image,breed", "image_id,species"]
HEADERS += ["id,target", "path,class_name", "fname,label", "Image,Label", "ImageId,Class", "id,breed", "img_path,gt"]


@pytest.mark.parametrize("header", HEADERS)
def test_the_columns_are_told_by_the_names_that_people_give_them(tmp_path, header):
    write_images(tmp_path / "i")
    rows = [header, *(f"{name}.jpg,{label}" for name, label in LABELS.items())]
    mini.write(tmp_path / "t.csv", "\n".join(rows).encode())
    assert classes(tmp_path / "i", tmp_path / "t.csv") == {"train": flat()}
    swapped = [",".join(reversed(row.split(","))) for row in rows]
    mini.write(tmp_path / "t.csv", "\n".join(swapped).encode())
    assert classes(tmp_path / "i", tmp_path / "t.csv") == {"train": flat()}


NAMES = {
    "with extension": "{}.jpg", "without": "{}", "folder": "i/{}.jpg", "dot": "./{}.jpg", "dot folder": "./i/{}.jpg",
    "absolute": "ROOT/i/{}.jpg", "of another machine": "/home/me/data/i/{}.jpg", "backslashes": "data\\i\\{}.jpg",
    "no such folder": "images/{}.jpg", "folder without extension": "i/{}",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("header", ["id,breed\n", ""], ids=["header", "no header"])
@pytest.mark.parametrize("src", ["i", "."])
def test_images_are_found_however_their_names_are_written(tmp_path, name, header, src):
    write_images(tmp_path / "i")
    name = name.replace("ROOT", str(tmp_path))
    if name.startswith("images") and src == ".":
        pytest.skip("the folder images/ is another than i/ below --src")
    mini.write(tmp_path / "t.csv", (header + "".join(f"{name.format(n)},{c}\n" for n, c in LABELS.items())).encode())
    assert classes(tmp_path / src, tmp_path / "t.csv") == {"train": flat("" if src == "i" else "i/")}


TEXTS = {
    "BOM and CRLF": lambda rows: b"\xef\xbb\xbf" + "\r\n".join(",".join(r) for r in rows).encode(),
    "utf-16": lambda rows: "\n".join(",".join(r) for r in rows).encode("utf-16"),
    "of Excel": lambda rows: b"sep=;\r\n" + "\r\n".join(";".join(r) for r in rows).encode(),
    "semicolons": lambda rows: "\n".join(";".join(r) for r in rows).encode(),
    "tabs": lambda rows: "\n".join("\t".join(r) for r in rows).encode(),
    "quotes": lambda rows: "\n".join(",".join(f'"{cell}"' for cell in r) for r in rows).encode(),
    "blanks": lambda rows: "\n".join(" , ".join(r) + " " for r in rows).encode(),
    "empty lines": lambda rows: "\n\n".join(",".join(r) for r in rows).encode() + b"\n\n",
    "more columns": lambda rows: "\n".join(",".join([*r, "7", "x"]) for r in rows).encode(),
    "index first": lambda rows: "\n".join(",".join([f"{i}" if i else "", *r]) for i, r in enumerate(rows)).encode(),
    "json lines": lambda rows: "\n".join(
        json.dumps(dict(zip(rows[0], r, strict=True)) | {"bbox": [1, 2]}) for r in rows[1:]
    ).encode(),
    "json list": lambda rows: json.dumps([dict(zip(rows[0], r, strict=True)) for r in rows[1:]], indent=1).encode(),
    "json object": lambda rows: json.dumps(dict(rows[1:])).encode(),
    "json object, indented": lambda rows: json.dumps(dict(rows[1:]), indent=2).encode(),
}


@pytest.mark.parametrize("write", TEXTS.values(), ids=TEXTS)
def test_tables_are_read_in_every_usual_form(tmp_path, write):
    write_images(tmp_path / "i")
    rows = [["file_name", "label"], *([f"{name}.jpg", label] for name, label in LABELS.items())]
    mini.write(tmp_path / "t.csv", write(rows))
    assert classes(tmp_path / "i", tmp_path / "t.csv") == {"train": flat()}


def test_a_list_of_caffe_has_files_and_numbers_with_a_blank_between(tmp_path):
    names = ["a 1", "b", "c"]
    write_images(tmp_path / "val", names, ".JPEG")
    mini.write(tmp_path / "val.txt", b"a 1.JPEG 2\nb.JPEG 0\nc.JPEG 1\n")
    expected = {"a 1.JPEG": "z", "b.JPEG": "x", "c.JPEG": "y"}
    assert classes(tmp_path / "val", tmp_path / "val.txt", classes=("x", "y", "z")) == {"val": expected}
    assert classes(tmp_path / "val", tmp_path / "val.txt")["val"] == {"a 1.JPEG": "2", "b.JPEG": "0", "c.JPEG": "1"}


@pytest.mark.parametrize("spelling", ["{}", "{}.0"])
def test_numbers_are_ordered_as_numbers(tmp_path, spelling):
    write_images(tmp_path / "i", [f"n{i}" for i in range(12)])
    rows = "".join(f"n{i}.jpg,{spelling.format(11 - i)}\n" for i in range(12))
    mini.write(tmp_path / "t.csv", f"file,label\n{rows}".encode())
    find = detect_source(tmp_path / "i", labels=asked(tmp_path / "t.csv")).splits["train"]
    assert listing.build_listing(find, None, where="").classes == tuple(map(str, range(12)))


def test_folders_in_the_names_must_be_those_of_the_image(tmp_path):
    for folder, name in (("a", "1"), ("b", "1"), ("b", "2")):
        write_images(tmp_path / folder, [name])
    mini.write(tmp_path / "t.csv", b"file,label\na/1.jpg,x\nb/1.jpg,y\nb/2.jpg,z\n")
    assert classes(tmp_path, tmp_path / "t.csv")["train"] == {"a/1.jpg": "x", "b/1.jpg": "y", "b/2.jpg": "z"}
    mini.write(tmp_path / "t.csv", b"file,label\n1.jpg,x\nb/1.jpg,y\nb/2.jpg,z\n")
    with pytest.raises(SourceError, match=r"line 2 of t.csv: '1.jpg' may be a/1.jpg or b/1.jpg"):
        classes(tmp_path, tmp_path / "t.csv")
    mini.write(tmp_path / "t.csv", b"file,label\na/1.jpg,x\nb/1.jpg,y\na/2.jpg,z\n")
    with pytest.raises(SourceError, match=r"no row for 1 of 3 images, the first: b/2.jpg; no image for 1 of 3 rows"):
        classes(tmp_path, tmp_path / "t.csv")


def test_a_row_for_the_image_of_another_split_is_no_row_for_this_one(tmp_path):
    write_images(tmp_path / "train", ["1", "2"])
    mini.write(tmp_path / "t.csv", b"file,label\nval/1.jpg,x\ntrain/2.jpg,y\n")
    with pytest.raises(SourceError, match=r"no image for 1 of 2 rows, the first: line 2 of t.csv, 'val/1.jpg'"):
        classes(tmp_path / "train", tmp_path / "t.csv")


WRONG = {
    "an image without a row": ("00004.jpg,red fox\n", "", r"no row for 1 of 5 images, the first: 00004.jpg"),
    "a row without an image": ("", "00009.jpg,pug\n", r"no image for 1 of 6 rows, the first: line 7 of t.csv, '00009"),
    "a row without a class": ("00004.jpg,red fox", "00004.jpg,", r"no class in 1 row, the first: line 6 of t.csv"),
}


@pytest.mark.parametrize(("old", "new", "match"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told_and_left_out_only_when_asked(tmp_path, old, new, match):
    write_images(tmp_path / "i")
    text = "file,label\n" + "".join(f"{name}.jpg,{label}\n" for name, label in LABELS.items())
    mini.write(tmp_path / "t.csv", (text.replace(old, new) if old else text + new).encode())
    with pytest.raises(SourceError, match=match) as error:
        classes(tmp_path / "i", tmp_path / "t.csv")
    assert "`labels.partial`" in str(error.value)
    left = {path: label for path, label in flat().items() if not old or path != "00004.jpg"}
    assert classes(tmp_path / "i", tmp_path / "t.csv", partial=True) == {"train": left}
    found = read_split(detect_source(tmp_path / "i", labels=asked(tmp_path / "t.csv", partial=True)).splits["train"])
    assert len(found.excluded) == (1 if old else 0)
    assert any("no image for 1 row of the table, the first" in said for said in found.notices) == (not old)


def test_two_rows_that_contradict_each_other_are_an_error_and_equal_ones_are_told(tmp_path):
    write_images(tmp_path / "i", ["1", "2"])
    mini.write(tmp_path / "t.csv", b"file,label\n1.jpg,x\n2.jpg,y\n1,z\n")
    with pytest.raises(SourceError, match=r"line 4 of t.csv says that '1' is 'z', but line 2 of t.csv says 'x'"):
        classes(tmp_path / "i", tmp_path / "t.csv")
    mini.write(tmp_path / "t.csv", b"file,label\n1.jpg,x\n2.jpg,y\n1,x\n")
    found = read_split(detect_source(tmp_path / "i", labels=asked(tmp_path / "t.csv")).splits["train"])
    assert "with the same class, in 1 row of the table" in "\n".join(found.notices)


AMBIGUOUS = {
    "two classes": "file,label,category\n1.jpg,a,x\n2.jpg,b,y\n",
    "unknown columns": "file,shade,age\n1.jpg,a,3\n2.jpg,b,4\n",
    "no header, two words": "1.jpg,a,x\n2.jpg,b,y\n",
    "two files": "image,path,label\n1.jpg,2.jpg,x\n2.jpg,1.jpg,y\n",
    "captions": "file_name,text\n1.jpg,a dog\n2.jpg,a cat\n",
    "list": 'file,label\n1.jpg,"[1, 2]"\n2.jpg,"[2]"\n',
}


@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_columns_that_are_not_certain_are_an_error_that_names_the_option(tmp_path, text):
    write_images(tmp_path / "i", ["1", "2"])
    mini.write(tmp_path / "t.csv", text.encode())
    with pytest.raises(SourceError, match=r"`labels\.columns` FILE,CLASS"):
        classes(tmp_path / "i", tmp_path / "t.csv")


@pytest.mark.parametrize("columns", ["file,category", "1,3", " file , category "])
def test_the_option_settles_it(tmp_path, columns):
    write_images(tmp_path / "i", ["1", "2"])
    mini.write(tmp_path / "t.csv", AMBIGUOUS["two classes"].encode())
    assert classes(tmp_path / "i", tmp_path / "t.csv", columns) == {"train": {"1.jpg": "x", "2.jpg": "y"}}
    with pytest.raises(SourceError, match=r"no column 'colour'.*'file', 'label', 'category'"):
        classes(tmp_path / "i", tmp_path / "t.csv", "file,colour")


@pytest.mark.parametrize("columns", ["a", "a,", "a,b,c,d"])
def test_wrong_columns_are_an_error_and_so_are_columns_without_a_table(tmp_path, columns):
    with pytest.raises(SourceError, match="expected FILE,CLASS"):
        asked(tmp_path, columns)
    with pytest.raises(SourceError, match="`labels`, which is not given"):
        asked(None, columns)


NO_TABLES = {
    "empty": b"", "binary": b"\xff\x00\x01\xfe", "one column": b"1.jpg\n2.jpg\n", "header alone": b"file,label\n",
    "ragged": b"file,label\n1.jpg,a\n2.jpg,b,c\n", "json of numbers": b"[1, 2]", "half a json": b'{"1.jpg": ',
    "fraction": b"file,label\n1.jpg,0.5\n2.jpg,1\n", "nan": b"file,label\n1.jpg,nan\n2.jpg,a\n",
}  # fmt: skip


@pytest.mark.parametrize("data", NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_no_table_is_an_error_of_one_line(tmp_path, data):
    write_images(tmp_path / "i", ["1", "2"])
    mini.write(tmp_path / "t.csv", data)
    with pytest.raises(SourceError, match=r"expected|save the table") as error:
        classes(tmp_path / "i", tmp_path / "t.csv")
    assert "\n" not in str(error.value)


def test_a_header_of_unknown_words_is_a_row_until_its_columns_are_named(tmp_path):
    write_images(tmp_path / "i", ["1", "2", "3"])
    mini.write(tmp_path / "t.csv", b"Bild,Art\n1.jpg,x\n2.jpg,y\n3.jpg,x\n")
    with pytest.raises(
        SourceError, match=r"no image for 1 of 4 rows, the first: line 1 of t.csv, 'Bild' \(`labels.col"
    ):
        classes(tmp_path / "i", tmp_path / "t.csv")
    expected = {"train": {"1.jpg": "x", "2.jpg": "y", "3.jpg": "x"}}
    assert classes(tmp_path / "i", tmp_path / "t.csv", "Bild,Art") == expected
    mini.write(tmp_path / "t.csv", b"0.jpg,x\n1.jpg,x\n2.jpg,y\n3.jpg,x\n")
    with pytest.raises(SourceError, match=r"no image for 1 of 4 rows, the first: line 1 of t.csv, '0.jpg'"):
        classes(tmp_path / "i", tmp_path / "t.csv")
    rows = [{"bild": f"{i}.jpg", "art": kind} for i, kind in ((1, "x"), (2, "y"), (3, "x"))]
    mini.write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert classes(tmp_path / "i", tmp_path / "t.jsonl") == expected


def test_a_column_of_splits_is_understood(tmp_path):
    write_images(tmp_path / "i", ["1", "2", "3"])
    mini.write(tmp_path / "t.csv", b"file,label,split\n1.jpg,x,train\n2.jpg,x,dev\n3.jpg,x,Test\n")
    assert classes(tmp_path / "i", tmp_path / "t.csv") == {
        "train": {"1.jpg": "x"}, "val": {"2.jpg": "x"}, "test": {"3.jpg": "x"},
    }  # fmt: skip
    mini.write(tmp_path / "t.csv", b"file,label,split\n1.jpg,x,train\n2.jpg,x,7\n3.jpg,x,test\n")
    with pytest.raises(SourceError, match=r"line 3 has '7' in column 'split'.*`labels.columns` FILE,CLASS leaves"):
        classes(tmp_path / "i", tmp_path / "t.csv")
    assert len(classes(tmp_path / "i", tmp_path / "t.csv", "file,label")["train"]) == 3


def test_folders_of_splits_are_splits_and_a_column_may_not_contradict_them(tmp_path):
    write_images(tmp_path / "train", ["1"])
    write_images(tmp_path / "val", ["2"])
    mini.write(tmp_path / "t.csv", b"file,label\n1,x\n2,x\n")
    assert classes(tmp_path, tmp_path / "t.csv") == {"train": {"train/1.jpg": "x"}, "val": {"val/2.jpg": "x"}}
    mini.write(tmp_path / "t.csv", b"file,label,split\n1,x,val\n2,x,val\n")
    with pytest.raises(SourceError, match=r"train/1.jpg is in val, which is not the split of its folder"):
        classes(tmp_path, tmp_path / "t.csv")


def test_images_in_tars_have_labels_in_tables_too(tmp_path):
    members = [(f"images/{name}.jpg", mini.jpeg(i)) for i, name in enumerate(LABELS)]
    mini.write(tmp_path / "i" / "all.tar", mini.tar_bytes([*members, ("readme.md", b"x")]))
    mini.write(tmp_path / "t.csv", ("id,breed\n" + "".join(f"{n},{c}\n" for n, c in LABELS.items())).encode())
    for src, prefix in ((tmp_path / "i", "all.tar/images/"), (tmp_path / "i/all.tar", "all.tar/images/")):
        assert classes(src, tmp_path / "t.csv") == {"train": flat(prefix)}


def kaggle(root, table="train.csv"):
    write_images(root / "train")
    write_images(root / "test", ["00000", "00009"])
    mini.write(root / table, ("id,breed\n" + "".join(f"{n},{c}\n" for n, c in LABELS.items())).encode())
    mini.write(root / "sample_submission.csv", b"id,pug,owl\n00009,0,1\n")


@pytest.mark.parametrize("table", ["train.csv", "trainLabels.csv", "train_labels.csv"])
def test_tables_of_kaggle_beside_flat_images_need_no_option(tmp_path, table):
    kaggle(tmp_path, table)
    assert classes(tmp_path) == {"train": flat("train/")}
    found = detect_source(tmp_path)
    assert f"labels of {table} (columns id, breed)" in found.description
    assert dict(read_split(found.splits["train"]).excluded) == {
        table: "table of labels",
        "sample_submission.csv": "no image by its name",
        "test/00000.jpg": "test images, which have no labels",
        "test/00009.jpg": "test images, which have no labels",
    }


def test_labels_csv_alone_does_not_choose_between_train_and_test(tmp_path):
    kaggle(tmp_path, "labels.csv")
    with pytest.raises(SourceError, match=r"'00000' may be (test|train)/00000.jpg or (test|train)/00000.jpg"):
        classes(tmp_path)
    (tmp_path / "test" / "00000.jpg").unlink()
    assert classes(tmp_path) == {"train": flat("train/")}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("folder", ["", "train/"])
def test_the_image_folders_of_hugging_face_hold_their_table(tmp_path, name, folder):
    write_images(tmp_path / folder)
    rows = [{"file_name": f"{stem}.jpg", "label": label} for stem, label in LABELS.items()]
    lines = (
        map(json.dumps, rows) if name.endswith("jsonl") else ["file_name,label", *(",".join(r.values()) for r in rows)]
    )
    mini.write(tmp_path / folder / name, "\n".join(lines).encode())
    assert classes(tmp_path) == {"train": flat(folder)}


def test_a_table_for_each_split(tmp_path):
    write_images(tmp_path / "train", ["1"])
    write_images(tmp_path / "val", ["1", "2"])
    mini.write(tmp_path / "train.csv", b"file,label\n1.jpg,x\n")
    mini.write(tmp_path / "val.csv", b"file,label\n1.jpg,y\n2.jpg,x\n")
    found = {split: read_split(find) for split, find in detect_source(tmp_path).splits.items()}
    assert {split: {e.path: e.wnid for e in one.entries} for split, one in found.items()} == {
        "train": {"train/1.jpg": "x"}, "val": {"val/1.jpg": "y", "val/2.jpg": "x"},
    }  # fmt: skip


@pytest.mark.parametrize("other", ["labels.csv", "train_labels.csv"])
def test_two_tables_for_one_split_are_not_chosen_between(tmp_path, other):
    kaggle(tmp_path)
    mini.write(tmp_path / other, b"file,label\n1.jpg,x\n")
    with pytest.raises(
        SourceError, match=r"may stand in .*train.*csv, train.*csv; choose one with `labels`|labels.csv, tr"
    ):
        detect_source(tmp_path)


def test_a_table_beside_class_folders_is_only_a_file(tmp_path):
    mini.write_folder(tmp_path)
    mini.write(tmp_path / "train.csv", b"file,label\nn01440764_18.JPEG,x\n")
    assert detect_source(tmp_path).kind == "folder"


VAL = {
    name: wnid for name, wnid in (("ILSVRC2012_val_00000002", "n01440764"), ("ILSVRC2012_val_00000001", "n03126707"))
}
OF_IMAGENET = {
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "".join(f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n" for name, wnid in VAL.items()),
    "val.csv": "filename,label\n" + "".join(f"{name}.JPEG,{wnid}\n" for name, wnid in VAL.items()),
    "val.txt": "".join(f"{name}.JPEG {wnid}\n" for name, wnid in VAL.items()),
    "val/val_annotations.txt": "".join(f"{name}.JPEG\t{wnid}\t0\t0\t62\t62\n" for name, wnid in VAL.items()),
}


@pytest.mark.parametrize(
    ("table", "images"), [(t, i) for t in OF_IMAGENET for i in ("val", "val/images") if "LOC" not in t or i == "val"]
)
def test_flat_validation_images_beside_class_folders_and_a_table(tmp_path, table, images):
    for wnid in ("n01440764", "n03126707"):
        mini.write(tmp_path / "train" / wnid / "images" / f"{wnid}_1.JPEG", mini.jpeg(1))
        mini.write(tmp_path / "train" / wnid / f"{wnid}_boxes.txt", b"x 1 2 3 4")
    write_images(tmp_path / images, VAL, ".JPEG")
    mini.write(tmp_path / table, OF_IMAGENET[table].encode())
    mini.write(tmp_path / "words.txt", b"n01440764\ttench\nn03126707\tcrane\nn00000001\tentity\n")
    found = classes(tmp_path)
    assert found["val"] == {f"{images}/{name}.JPEG": wnid for name, wnid in VAL.items()}
    assert set(found["train"].values()) == {"n01440764", "n03126707"}


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path):
    for wnid in ("n01440764", "n03126707"):
        for i in range(3):
            mini.write(tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", mini.jpeg(i))
        mini.write(tmp_path / "train" / wnid / f"{wnid}_boxes.txt", b"x 1 2 3 4")
    write_images(tmp_path / "val" / "images", ["val_0", "val_1"], ".JPEG")
    mini.write(
        tmp_path / "val" / "val_annotations.txt",
        b"val_0.JPEG\tn03126707\t0\t32\t44\t62\nval_1.JPEG\tn01440764\t5\t1\t2\t3\n",
    )
    write_images(tmp_path / "test" / "images", ["test_0"], ".JPEG")
    mini.write(tmp_path / "wnids.txt", b"n03126707\nn01440764\n")
    mini.write(tmp_path / "words.txt", b"n01440764\ttench\nn03126707\tcrane\n")
    found = classes(tmp_path)
    assert found["val"] == {"val/images/val_0.JPEG": "n03126707", "val/images/val_1.JPEG": "n01440764"}
    assert len(found["train"]) == 6
    train = listing.build_listing(detect_source(tmp_path).splits["train"], None, where="")
    assert train.class_names == {"n01440764": "tench", "n03126707": "crane"}
    assert ("test/images/test_0.JPEG", "test images, which have no labels") in train.excluded
    assert ("train/n01440764/n01440764_boxes.txt", "no image by its name") in train.excluded


def test_a_label_that_is_no_given_class_is_an_error(tmp_path):
    write_images(tmp_path / "i", ["1", "2"])
    mini.write(tmp_path / "t.csv", b"file,label\n1.jpg,0\n2.jpg,2\n")
    with pytest.raises(SourceError, match=r"line 2 of t.csv: '0' is none of 2 classes .* `classes`"):
        classes(tmp_path / "i", tmp_path / "t.csv", classes=("a", "b"))


def test_every_file_is_accounted_for(tmp_path):
    kaggle(tmp_path)
    mini.write(tmp_path / "train" / "notes.txt", b"x")
    mini.write(tmp_path / "train" / ".DS_Store", b"x")
    lst = listing.build_listing(detect_source(tmp_path).splits["train"], None, where="")
    told = {image.path for image in listing.iter_images(lst.table, lst.classes)} | {path for path, _ in lst.excluded}
    for file in tmp_path.rglob("*"):
        path = file.relative_to(tmp_path)
        assert file.is_dir() or any(str(p) in told for p in [path, *path.parents]), path


def test_images_without_a_table_are_an_error_that_says_how_to_give_one(tmp_path):
    write_images(tmp_path)
    mini.write(tmp_path / "mine.csv", b"file,label\n00000,x\n")
    with pytest.raises(SourceError, match=r"holds 5 images \(00000.jpg, …\) and no class folders; .* `labels` FILE"):
        detect_source(tmp_path)


def test_a_bucket_has_images_and_table(tmp_path):
    upath = pytest.importorskip("upath")
    store = upath.UPath(f"memory://{tmp_path.name}-labels")
    for i, name in enumerate(LABELS):
        (store / "train" / f"{name}.jpg").parent.mkdir(parents=True, exist_ok=True)
        (store / "train" / f"{name}.jpg").write_bytes(mini.jpeg(i))
    text = "id,breed\n" + "".join(f"train/{name}.jpg,{label}\n" for name, label in LABELS.items())
    (store / "train.csv").write_bytes(text.encode())
    assert classes(store) == {"train": flat("train/")}
    assert classes(store, store / "train.csv") == {"train": flat("train/")}


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("inner", ["{}", "images", "{}_images"])
def test_a_folder_of_a_split_in_a_folder_of_the_same_split_is_no_class(tmp_path, inner, given):
    """Archives of Kaggle unpack to ``train/train/*.jpg`` and ``test/test/*.jpg``."""
    write_images(tmp_path / "train" / inner.format("train"))
    write_images(tmp_path / "test" / inner.format("test"), ["90001", "90002"])
    table = tmp_path / "train.csv"
    mini.write(table, "".join(f"{name}.jpg,{label}\n" for name, label in LABELS.items()).encode())
    read = classes(tmp_path, table) if given else classes(tmp_path)
    assert read == {"train": flat(f"train/{inner.format('train')}/")}


def test_a_folder_around_flat_images_and_their_table_is_stepped_over(tmp_path):
    write_images(tmp_path / "set" / "train")
    mini.write(tmp_path / "set/train.csv", "".join(f"{name},{label}\n" for name, label in LABELS.items()).encode())
    assert classes(tmp_path / "set") == {"train": flat("train/")}
    assert classes(tmp_path) == {"train": flat("set/train/")}


LISTS = {"numbers": ["0 1", "1", "0"], "commas": ['"0, 1"', "1", "0"], "bars": ["owl|pug", "pug", "owl"]}


@pytest.mark.parametrize("labels", LISTS.values(), ids=LISTS)
def test_several_classes_of_one_image_are_no_class(tmp_path, labels):
    """Kaggle has tables of attributes and of findings: ``18 0 5``, ``Effusion|Mass``."""
    write_images(tmp_path, ["a", "b", "c"])
    rows = "".join(f"{name}.jpg,{label}\n" for name, label in zip("abc", labels, strict=True))
    mini.write(tmp_path / "train.csv", f"id,label\n{rows}".encode())
    with pytest.raises(SourceError, match=r"line 2 has .* expected one class"):
        classes(tmp_path)


def test_names_with_blanks_bars_and_commas_are_classes(tmp_path):
    names = {"a": "sea lion", "b": "sea", "c": "lion", "d": "tench, Tinca tinca", "e": "on|off"}
    write_images(tmp_path / "i", names)
    mini.write(tmp_path / "t.csv", ("id,label\n" + "".join(f'{n},"{c}"\n' for n, c in names.items())).encode())
    assert classes(tmp_path / "i", tmp_path / "t.csv", "id,label") == {"train": flat(labels=names)}


def test_an_extension_in_other_case_is_that_of_the_image(tmp_path):
    names = {"0": "0", "1": "1", "2": "0", "3": "1"}
    write_images(tmp_path, names, ".JPG")
    mini.write(tmp_path / "labels.csv", ("id,label\n" + "".join(f"{n}.jpg,{c}\n" for n, c in names.items())).encode())
    assert classes(tmp_path) == {"train": flat(ending=".JPG", labels=names)}


def test_comments_above_a_list_are_no_rows(tmp_path):
    write_images(tmp_path / "i", ["cat_1", "cat_2", "dog_1"])
    mini.write(tmp_path / "list.txt", b"#Image ID SPECIES\n#ID: 1:37 of classes\ncat_1 1 7\ncat_2 1 7\ndog_1 2 7\n")
    read = classes(tmp_path / "i", tmp_path / "list.txt", "1,2")
    assert read == {"train": {"cat_1.jpg": "1", "cat_2.jpg": "1", "dog_1.jpg": "2"}}


def test_what_is_said_of_an_incomplete_table_beside_the_images_can_be_typed(tmp_path):
    write_images(tmp_path / "train", [*LABELS, "90000"])
    table = tmp_path / "train.csv"
    mini.write(table, ("id,label\n" + "".join(f"{n}.jpg,{c}\n" for n, c in LABELS.items())).encode())
    with pytest.raises(SourceError, match=rf"leave these out with `labels` {table} `labels.partial`$"):
        classes(tmp_path)
    assert classes(tmp_path, table, partial=True) == {"train": flat("train/")}


@pytest.mark.parametrize("header", ["Width,Path,ClassId", "Width,Path,Height"])
def test_a_table_of_test_images_counts_where_it_has_classes(tmp_path, header):
    """As the German traffic signs have it; those of most contests name the images alone."""
    for number in ("0", "1"):
        mini.write(tmp_path / "Train" / number / "1.jpg", mini.jpeg(int(number)))
    write_images(tmp_path / "Test", ["a", "b"])
    mini.write(tmp_path / "Train.csv", b"Path,ClassId\nTrain/0/1.jpg,0\nTrain/1/1.jpg,1\n")
    mini.write(tmp_path / "Test.csv", f"{header}\n30,Test/a.jpg,1\n31,Test/b.jpg,0\n".encode())
    train = {"Train/0/1.jpg": "0", "Train/1/1.jpg": "1"}
    test = {"test": {"Test/a.jpg": "1", "Test/b.jpg": "0"}} if "ClassId" in header else {}
    assert classes(tmp_path) == {"train": train, **test}


def write_table(root, cells):
    write_images(root / "i", [f"{i}" for i in range(len(cells))])
    mini.write(root / "t.csv", "\n".join(["file,class", *(f"{i}.jpg,{c}" for i, c in enumerate(cells))]).encode())
    return root / "i", root / "t.csv"


PLANTS = ["scab", "frog_eye", "complex", "rust", "healthy", "scab frog_eye", "rust complex", "scab frog_eye complex"]
NAMES = {
    "sea lion": ["sea lion", "lion", "tiger", "sea lion"],
    "cities": ["new york", "york", "new delhi", "delhi"],
    "dogs": ["golden retriever", "curly coated retriever", "retriever", "pug"],
    "blanks alone": ["red  fox", "red fox", "fox"],
}


def test_cells_of_several_labels_are_refused_by_name(tmp_path):
    images, table = write_table(tmp_path, PLANTS)
    with pytest.raises(SourceError, match=r"3 of 3: .*'scab frog_eye' \(line 7 of t\.csv\).*`labels`;") as error:
        classes(images, table)
    assert "\n" not in str(error.value)
    found = classes(images, table, classes=tuple(sorted(set(PLANTS))))
    assert found == {"train": {f"{i}.jpg": cell for i, cell in enumerate(PLANTS)}}


@pytest.mark.parametrize("cells", NAMES.values(), ids=NAMES)
def test_names_of_several_words_are_classes(tmp_path, cells):
    images, table = write_table(tmp_path, cells)
    assert classes(images, table) == {"train": {f"{i}.jpg": cell for i, cell in enumerate(cells)}}
    assert not any("made of words" in notice for notice in recognised_notices(images, table))


@pytest.mark.parametrize("others", [[], ["sea lion", "red fox", "snowy owl"]])
def test_a_doubtful_cell_is_a_class_and_named(tmp_path, others):
    """One such cell alone, or a few among many that are no such: beside them it may be a name."""
    images, table = write_table(
        tmp_path, ["tiger", "shark", "whale", "tiger shark", "whale shark"][: 5 if others else 4] + others
    )
    assert "tiger shark" in classes(images, table)["train"].values()
    assert any("'tiger shark' (line 5 of t.csv)" in notice for notice in recognised_notices(images, table))


def recognised_notices(images, table):
    return read_split(detect_source(images, labels=asked(table)).splits["train"]).notices


def test_labels_that_look_alike_are_two_classes_and_named(tmp_path):
    images, table = write_table(tmp_path, ["Cat", "cat", "dog"])
    found = listing.build_listing(detect_source(images, labels=asked(table)).splits["train"], None, where="")
    assert found.classes == ("Cat", "cat", "dog")
    assert any("kept apart: 'Cat', 'cat'; if" in notice for notice in found.notices)
