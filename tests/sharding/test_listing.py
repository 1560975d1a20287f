"""Entries in, columns out: labels, unique keys, and an identity of the whole."""

import hashlib
import os
import string
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.core.errors import SourceError
from alexstream.sharding.listing import build_listing, iter_images, make_unique_keys
from alexstream.sharding.sources.types import Entry
from tests.support.source_splits import lister_of

SAFE = set(string.ascii_letters + string.digits + "_-")


def listing(*names, classes=None, known=None):
    entries = [Entry(wnid=n.split("/")[0], name=n, path=f"root/{n}", container=f"root/{n}") for n in names]
    return build_listing(lister_of(iter(entries), classes=known), classes, where="here")


def keys_of(*names):
    column = pa.chunked_array([[os.fsencode(name) for name in names]], pa.binary())
    places = pa.chunked_array([[str(i).encode() for i in range(len(names))]], pa.binary())
    return make_unique_keys(column, lambda: places).to_pylist()


def test_labels_are_positions_of_sorted_class_names():
    made = listing("n02/b.jpg", "n01/a.jpg", "n02/c.jpg")
    assert made.classes == ("n01", "n02")
    assert made.counts_by_class() == {"n01": 1, "n02": 2}
    assert [(i.path, i.wnid, i.label) for i in iter_images(made.table, made.classes)] == [
        ("root/n02/b.jpg", "n02", 1),
        ("root/n01/a.jpg", "n01", 0),
        ("root/n02/c.jpg", "n02", 1),
    ]


def test_numeric_class_names_sort_as_numbers():
    assert listing("10/a.jpg", "2/a.jpg", "1/a.jpg").classes == ("1", "2", "10")


def test_given_classes_go_before_the_sources_own_order():
    assert listing("b/x.jpg", known=("b", "a")).classes == ("b", "a")
    assert listing("b/x.jpg", classes=("c", "b"), known=("b", "a")).classes == ("c", "b")


def test_a_class_unknown_to_the_given_order_is_an_error():
    with pytest.raises(SourceError, match="'z'"):
        listing("z/x.jpg", classes=("a", "b"))


def test_a_class_named_twice_is_an_error():
    with pytest.raises(SourceError, match="'a' is named twice"):
        listing("a/x.jpg", classes=("a", "b", "a"))


def test_no_images_is_an_error():
    with pytest.raises(SourceError, match="no images found"):
        listing()


def test_imagenet_names_are_keys_as_they_are():
    paths = ["n01440764/n01440764_10026.JPEG", "n01440764/ILSVRC2012_val_00000293.JPEG"]
    assert keys_of(*paths) == ["n01440764_10026", "ILSVRC2012_val_00000293"]


def test_other_names_become_class_and_path():
    assert keys_of("cat/2019/may/a.jpg", "cat/b") == ["cat_2019_may_a", "cat_b"]


def test_unsafe_long_and_colliding_names_get_unique_safe_keys():
    paths = ["c/a.b.jpg", "c/a b.jpg", "c/ä.jpg", "c/x.jpg", "c/x.png", "c/X.jpg", f"c/{'y' * 200}.jpg", "c/plain.jpg"]
    keys = keys_of(*paths)
    assert len({key.lower() for key in keys}) == len(paths)
    assert all(set(key) <= SAFE for key in keys)
    assert max(map(len, keys)) < 95
    assert keys[-1] == "c_plain"


@settings(deadline=None)
@given(
    st.sets(
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12),
        min_size=1,
        max_size=30,
    )
)
def test_any_names_at_all_get_unique_safe_keys(files):
    names = [f"c/{file.strip('/')}" for file in files]
    keys = keys_of(*sorted(set(names)))
    assert len({key.lower() for key in keys}) == len(set(names))
    assert all(set(key) <= SAFE for key in keys)


def test_samples_of_the_very_same_name_stay_two():
    keys = keys_of("c/a.jpg", "c/a.jpg", "c/b.jpg")
    assert len(set(keys)) == 3 and keys[2] == "c_b"


def test_names_that_are_no_utf8_come_back_as_they_were():
    name = os.fsdecode(b"c/caf\xe9.jpg")
    made = listing(name, "c/b.jpg")
    (first, _) = iter_images(made.table, made.classes)
    assert first.path == f"root/{name}"
    assert set(first.key) <= SAFE


def test_rows_come_in_the_order_asked_for_and_know_their_place():
    entries = [Entry(wnid="a", name=f"a/{i}.jpg", path=f"x.tar/{i}.jpg", container="x.tar", offset=512 * i, size=i)
               for i in range(5)]  # fmt: skip
    made = build_listing(lister_of(entries), None, where="here")
    found = [(i.container, i.offset, i.size) for i in iter_images(made.rows(np.array([3, 1])), made.classes)]
    assert found == [("x.tar", 1536, 3), ("x.tar", 512, 1)]


def test_the_identity_changes_with_every_fact():
    base = listing("a/x.jpg", "b/y.jpg").digest()
    assert base == listing("a/x.jpg", "b/y.jpg").digest()
    others = [
        listing("a/x.jpg", "b/z.jpg"),
        listing("b/y.jpg", "a/x.jpg"),
        listing("a/x.jpg", "b/y.jpg", known=("b", "a")),
    ]
    assert len({base, *(o.digest() for o in others)}) == 4


# --- keys, one by one -----------------------------------------------------------------------------------------------


def hashed(key, name):
    """The key with eight hexadecimal digits of its name's hash."""
    return f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        # ImageNet's own names of any year, and beside names of others
        (["c/ILSVRC2010_val_00000001.JPEG", "c/x.jpg"], ["ILSVRC2010_val_00000001", "c_x"]),
        (["c/ILSVRC2017_test_00000001.JPEG"], ["ILSVRC2017_test_00000001"]),
        (["n01440764/n01440764_10026.JPEG", "cat/b.jpg"], ["n01440764_10026", "cat_b"]),
        # almost such names
        (["c/n0144076_1.JPEG", "c/n01440764_.JPEG"], ["c_n0144076_1", "c_n01440764_"]),
        (["c/ILSVRC2012_train_00000001.JPEG"], ["c_ILSVRC2012_train_00000001"]),
        (["c/ILSVRC2012_val_0000001.JPEG"], ["c_ILSVRC2012_val_0000001"]),
        (["c/xn01440764_1.JPEG", "c/n01440764_1x.JPEG"], ["c_xn01440764_1", "c_n01440764_1x"]),
        # folders, and what is behind the last dot
        (["cat/2019/may/a.jpg"], ["cat_2019_may_a"]),
        (["c/a.b.jpg"], [hashed("c_a-b", "c/a.b.jpg")]),
        (["c.d/a"], [hashed("c-d_a", "c.d/a")]),
        (["c/.hidden"], ["c_"]),
        # what is no letter, digit, _ or -
        (["c/a b.jpg", "c/ä.jpg"], [hashed("c_a-b", "c/a b.jpg"), hashed("c_-", "c/ä.jpg")]),
        # equal, or equal but for case
        (["c/a.jpg", "c/A.jpg", "c/b.jpg"], [hashed("c_a", "c/a.jpg"), hashed("c_A", "c/A.jpg"), "c_b"]),
        (["c/a.jpg", "c/a.png"], [hashed("c_a", "c/a.jpg"), hashed("c_a", "c/a.png")]),
        (["c/d_e.jpg", "c/d/e.jpg"], [hashed("c_d_e", "c/d_e.jpg"), hashed("c_d_e", "c/d/e.jpg")]),
        # as long as may be, and longer
        ([f"c/{'y' * 78}.jpg"], [f"c_{'y' * 78}"]),
        ([f"c/{'y' * 79}.jpg"], [hashed(f"c_{'y' * 78}", f"c/{'y' * 79}.jpg")]),
    ],
)
def test_known_keys(names, keys):
    assert keys_of(*names) == keys


def test_names_that_are_equal_too_are_told_apart_by_their_place():
    (first, second) = keys_of("c/a.jpg", "c/a.jpg")
    both = hashed("c_a", "c/a.jpg")
    assert (first, second) == (hashed(both, "0"), hashed(both, "1"))


def at(path, offset, size, name="a/x.jpg"):
    return build_listing(lister_of([Entry("a", name, path, "x.tar", offset, size)]), None, where="here")


def test_places_of_equal_names_are_path_offset_and_size():
    """Two members of one name in one tar, and one of them in another."""
    entries = [Entry("a", "a/x.jpg", path, path[:5], offset, 7) for path, offset in
               (("x.tar/x.jpg", 512), ("x.tar/x.jpg", 2048), ("y.tar/x.jpg", 512))]  # fmt: skip
    keys = build_listing(lister_of(entries), None, where="here").table.column("key").to_pylist()
    both = hashed("a_x", "a/x.jpg")
    assert keys == [hashed(both, text) for text in ("x.tar/x.jpg:512:7", "x.tar/x.jpg:2048:7", "y.tar/x.jpg:512:7")]


def test_the_identity_knows_every_place_and_does_not_run_texts_together():
    one = at("x.tar/x.jpg", 512, 7)
    others = [
        at("x.tar/x.jpg", 1024, 7), at("x.tar/x.jpg", 512, 8), at("x.tar/y.jpg", 512, 7),
        at("x.tar/x.jpg", 512, 7, name="a/z.jpg"),
    ]  # fmt: skip
    assert len({one.digest(), *(other.digest() for other in others)}) == 5
    # path and key joined give the same letters: only their lengths tell them apart
    paths = [
        listing_of(("a", "a/x.jpg", "ab"), ("a", "a/y.jpg", "c")),
        listing_of(("a", "a/x.jpg", "a"), ("a", "a/y.jpg", "bc")),
    ]
    assert paths[0].digest() != paths[1].digest()


def listing_of(*entries):
    return build_listing(lister_of([Entry(c, name, path, "x", 1, 1) for c, name, path in entries]), None, where="here")


def test_the_identity_of_a_known_listing_never_changes():
    """Its parts as the bytes that are hashed: classes, then lengths and texts of paths and keys, labels, places."""
    made = listing_of(("b", "b/y.jpg", "p/y.jpg"), ("a", "a/x.jpg", "p/x.jpg"))
    parts = [b"('a', 'b')"]
    parts += [struct.pack("<2i", 7, 7), b"p/y.jpgp/x.jpg", struct.pack("<2i", 3, 3), b"b_ya_x"]
    parts += [struct.pack("<2i", 1, 0), struct.pack("<2q", 1, 1), struct.pack("<2q", 1, 1)]
    assert made.digest() == hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_listing_names_its_archives_and_counts_its_classes():
    entries = [Entry("b", "b/1.jpg", "x.tar/1.jpg", "x.tar", 512, 1), Entry("b", "b/2.jpg", "b/2.jpg", "b/2.jpg"),
               Entry("a", "a/3.jpg", "y.tar/3.jpg", "y.tar", 0, 1)]  # fmt: skip
    made = build_listing(lister_of(entries, class_names={"b": "bee", "z": "zoo"}), ["z", "b", "a", "y"], where="here")
    assert sorted(made.list_containers()) == ["x.tar", "y.tar"] and len(made) == 3
    assert made.counts_by_class() == {"z": 0, "b": 2, "a": 1, "y": 0}
    assert made.class_names == {"z": "zoo", "b": "bee"} and list(made.class_names) == ["z", "b"]


def test_numbers_are_sorted_as_numbers_only_if_all_are():
    assert listing("10/a.jpg", "2/a.jpg", "x/a.jpg").classes == ("10", "2", "x")
    assert listing("1/a.jpg", "01/a.jpg", "0/a.jpg").classes == ("0", "01", "1")


def test_excluded_entries_are_sorted_and_kept():
    found = lister_of([Entry("a", "a/x.jpg", "a/x.jpg", "a/x.jpg")], excluded=[("z", "why"), ("b", "why")])
    assert build_listing(found, None, where="here").excluded == (("b", "why"), ("z", "why"))


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_rows_come_in_the_order_asked_for_from_any_number_of_chunks(monkeypatch, chunk_rows):
    monkeypatch.setattr("alexstream.sharding.listing._CHUNK_ROWS", chunk_rows)
    names = [f"class{i % 3}/{i:02d}.jpg" for i in range(10)]
    made = listing(*names)
    assert made.table.column("path").num_chunks == -(-len(names) // chunk_rows)
    for positions in ([], [9], [3, 1, 3, 0], list(range(10))[::-1], [8, 2, 5, 9, 0]):
        rows = made.rows(np.array(positions, np.int64))
        found = [(image.path, image.wnid) for image in iter_images(rows, made.classes)]
        assert found == [(f"root/{names[i]}", names[i].partition("/")[0]) for i in positions]
        assert rows.schema == made.table.schema
