"""What a report shows people: images of every class, bright ones for lighting, frames, copies."""

import re
from types import SimpleNamespace

import numpy as np

from alexstream.core.errors import BadImageError
from alexstream.report import augmentation, dataset, examples, network, page
from alexstream.report.blocks import Galleries, Note, Table
from alexstream.sharding.dataset_v1.manifest import list_split_folders
from alexstream.sharding.lookup import SampleLookup

# --- Images of every class


def test_a_data_set_begins_with_four_images_of_every_class(shards):
    first = dataset.build_section(list_split_folders(shards), None).blocks[0]
    assert isinstance(first, Galleries)
    assert [one.caption for one in first.galleries] == ["cat, 5 images", "dog, 3 images", "fox, 2 images"]
    shown = [{picture.alt for picture in one.pictures} for one in first.galleries]
    assert [len(pictures) for pictures in shown] == [4, 3, 2]
    lookup = SampleLookup.from_folder(shards / "train")
    for label, alts in enumerate(shown):
        keys = {alt.partition("sample ")[2] for alt in alts}
        assert {lookup.label(lookup.find(key)) for key in keys} == {label}
    assert all(max(p.width, p.height) == examples.SIDE_PX for one in first.galleries for p in one.pictures)


def test_of_very_many_classes_the_first_are_shown_and_it_is_said(shards, monkeypatch):
    monkeypatch.setattr(examples, "MAX_CLASSES", 2)
    galleries, note = examples.build_examples(shards / "train", ["cat", "dog", "fox"])
    assert len(galleries.galleries) == 2 and note.text == "These are the first 2 of 3 classes."


def test_a_damaged_image_leaves_a_gap_and_no_error(shards, monkeypatch):
    sound = SampleLookup.pixels

    def pixels(self, sample):
        if self.label(sample) == 2 and sample == max(np.flatnonzero(self.columns["label"] == 2)):
            raise BadImageError("corrupt", "damaged")
        return sound(self, sample)

    monkeypatch.setattr(SampleLookup, "pixels", pixels)
    (galleries,) = examples.build_examples(shards / "train", ["cat", "dog", "fox"])
    assert [len(one.pictures) for one in galleries.galleries] == [4, 3, 1]


# --- Lighting, frames


def test_lighting_is_shown_on_the_brightest_image_that_is_not_white():
    grays = [20, 255, 180, 90]
    lookup = SimpleNamespace(keys=grays, pixels=lambda i: np.full((8, 8, 3), grays[i], np.uint8))
    assert augmentation._choose_bright(lookup, seed=1)[0, 0, 0] == 180


def test_nearest_images_of_the_query_s_class_and_no_others_are_framed():
    catalog = SimpleNamespace(pixels=lambda sample: np.zeros((8, 8, 3), np.uint8))
    query, same, other = (
        SimpleNamespace(split=SimpleNamespace(catalog=catalog), sample=0, label=label, class_name="c", distance=0.5)
        for label in (3, 3, 4)
    )
    framed = [network._draw_found(one, query) for one in (same, other)]
    assert [(one.is_match, one.alt) for one in framed] == [(True, "c, 0.5000, same class"), (False, "c, 0.5000")]
    section = SimpleNamespace(
        name="n", title="t", intro="", blocks=[network.Gallery(caption="c", pictures=framed)], parts=[]
    )
    assert re.findall(r"<img( class=\"match\")?", page.render("t", [section])) == [' class="match"', ""]


def test_a_name_from_right_to_left_does_not_swallow_the_number_after_it():
    told = page.isolate_directions("קטן חתול, 70 images of <b> قطة")
    assert told == "<bdi>קטן חתול</bdi>, 70 images of &lt;b&gt; <bdi>قطة</bdi>"
    assert page.isolate_directions("cat, 70 images") == "cat, 70 images"


# --- Copies


def test_copies_are_counted_by_kind_and_listed(shards):
    blocks = dataset.build_section(list_split_folders(shards), None).blocks
    notes = [block.text for block in blocks if isinstance(block, Note)]
    assert notes == [
        "1 image of train has the bytes of another image of train.",
        "1 image of val has the bytes of an image of train.",
        "1 image is filed under more than one class.",
    ]
    (table,) = [block for block in blocks if isinstance(block, Table) and block.folded == "Which images"]
    assert table.caption == "4 files with the bytes of another"
    assert sorted(tuple(row[1:]) for row in table.rows) == [
        ("train", "cat", "train/cat/0.png"),
        ("train", "cat", "train/cat/4.png"),
        ("train", "dog", "train/dog/2.png"),
        ("val", "cat", "val/cat/1.png"),
    ]


def test_nothing_is_said_of_copies_where_there_are_none(shards):
    assert dataset._build_duplicates([shards / "val"]) == []
