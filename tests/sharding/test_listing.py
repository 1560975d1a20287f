"""Entries in, columns out: labels, unique keys, and an identity of the whole."""

import os
import string

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import SourceError
from sharding.listing import Entry, Found, build, images, unique_keys

SAFE = set(string.ascii_letters + string.digits + "_-")


def listing(*names, classes=None, known=None):
    entries = [Entry(wnid=n.split("/")[0], name=n, path=f"root/{n}", container=f"root/{n}") for n in names]
    return build(Found(entries=iter(entries), classes=known), classes, where="here")


def keys_of(*names):
    column = pa.chunked_array([[os.fsencode(name) for name in names]], pa.binary())
    places = pa.chunked_array([[str(i).encode() for i in range(len(names))]], pa.binary())
    return unique_keys(column, lambda: places).to_pylist()


def test_labels_are_positions_of_sorted_class_names():
    made = listing("n02/b.jpg", "n01/a.jpg", "n02/c.jpg")
    assert made.classes == ("n01", "n02")
    assert made.counts_by_class() == {"n01": 1, "n02": 2}
    assert [(i.path, i.wnid, i.label) for i in images(made.table, made.classes)] == [
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
    (first, _) = images(made.table, made.classes)
    assert first.path == f"root/{name}"
    assert set(first.key) <= SAFE


def test_rows_come_in_the_order_asked_for_and_know_their_place():
    entries = [Entry(wnid="a", name=f"a/{i}.jpg", path=f"x.tar/{i}.jpg", container="x.tar", offset=512 * i, size=i)
               for i in range(5)]  # fmt: skip
    made = build(Found(entries=entries), None, where="here")
    found = [(i.container, i.offset, i.size) for i in images(made.rows(np.array([3, 1])), made.classes)]
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
