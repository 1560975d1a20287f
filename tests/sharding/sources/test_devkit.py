"""Which line of the ground truth labels which image, and devkits that contradict themselves."""

import io

import numpy as np
import pytest
from scipy.io import savemat

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import list_items
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import ValLabels, find_devkit
from tests.support import imagenet_miniature as mini

CLASSES = tuple(f"class{i}" for i in range(1, 7))  # line i of six is class i


def truth(**options):
    return ValLabels(where="the devkit", in_order=CLASSES, **options)


def val_name(number, end=".JPEG"):
    return f"ILSVRC2012_val_{number:08d}{end}"


@pytest.mark.parametrize("numbers", [(1, 6), (6,), (1,), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_images_of_a_part_are_labelled_by_their_numbers(numbers):
    """The first and the last line count."""
    found, said = truth().labels_for([val_name(number) for number in numbers], "val.tar")
    assert found == [f"class{number}" for number in numbers]
    assert said == [
        f"val.tar: {len(numbers)} images, where the devkit has 6 lines: partial, each labelled by its number"
    ]


@pytest.mark.parametrize("numbers", [(0,), (7,), (0, 1, 2), (1, 6, 7), (50_000,), (99_999_999,)])
def test_a_number_that_is_no_line_is_an_error(numbers):
    with pytest.raises(SourceError, match="the images' names do not number these lines"):
        truth().labels_for([val_name(number) for number in numbers], "val.tar")


@pytest.mark.parametrize(
    "names",
    [["a.JPEG"], [val_name(1), "a.JPEG"], [val_name(1), val_name(1, "_x.JPEG")], [val_name(1), val_name(1, ".png")]],
)
def test_names_without_a_number_of_their_own_are_an_error(names):
    with pytest.raises(SourceError, match=rf"{len(names)} images, where the devkit has 6 lines, and"):
        truth().labels_for(names, "val.tar")


def test_as_many_images_as_lines_are_labelled_in_order():
    names = [f"{letter}.JPEG" for letter in "abcdef"]
    assert truth().labels_for(names, "val.tar") == (list(CLASSES), [])


def test_more_images_than_lines_are_an_error_even_if_some_have_numbers():
    with pytest.raises(SourceError, match="7 images, where the devkit has 6 lines"):
        truth().labels_for([val_name(number) for number in range(1, 8)], "val.tar")


def test_a_table_by_name_goes_before_the_order():
    table = truth(by_stem={"a": "class9", val_name(1, ""): "class8"})
    assert table.labels_for(["a.JPEG", "b.JPEG", val_name(1)], "val")[0] == ["class9", None, "class8"]


def with_kit(root, *, nodes=None, lines=None, packed=False):
    """A devkit of these nodes (id, wnid, words, children) and these lines of the ground truth."""
    nodes = nodes or [(i, f"n0000000{i}", f"word {i}", 0) for i in (1, 2, 3)]
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    synsets = np.zeros((len(nodes), 1), dtype=[(field, "O") for field in [*fields, "num_train_images"]])
    for row, (number, wnid, words, children) in enumerate(nodes):
        synsets[row, 0] = (number, wnid, words, "", children, np.zeros((1, children)), 0, 1300)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    files = {"data/meta.mat": buffer.getvalue()}
    if lines is not None:
        files[f"data/{ilsvrc.GROUND_TRUTH}"] = "".join(f"{line}\n" for line in lines).encode()
    if packed:
        mini.write(root / "devkit.tar", mini.tar_bytes([(f"kit/{name}", data) for name, data in files.items()]))
    else:
        for name, data in files.items():
            mini.write(root / "kit" / name, data)
    return find_devkit(root, list_items(root))


@pytest.mark.parametrize("packed", [False, True])
def test_lines_are_ids_of_classes(tmp_path, packed):
    name, kit = with_kit(tmp_path, lines=(3, 1, 1, 2), packed=packed)
    assert name == ("devkit.tar" if packed else "kit")
    assert list(kit.val_labels().in_order) == ["n00000003", "n00000001", "n00000001", "n00000002"]
    assert kit.val_labels().ids == {"n00000001": 1, "n00000002": 2, "n00000003": 3}
    assert kit.val_labels().names["n00000002"] == "word 2"


@pytest.mark.parametrize("wrong", [0, 4, -1])
def test_an_id_that_is_no_class_is_an_error_that_names_the_line(tmp_path, wrong):
    _, kit = with_kit(tmp_path, lines=(3, wrong, 1))
    with pytest.raises(
        SourceError, match=rf"line 2 of {ilsvrc.GROUND_TRUTH} is {wrong}, which is the id of none of the 3"
    ):
        kit.val_labels()


def test_the_id_of_a_node_above_the_classes_labels_no_image(tmp_path):
    nodes = [(1, "n00000001", "a", 0), (2, "n00000002", "b", 3)]
    _, kit = with_kit(tmp_path, nodes=nodes, lines=(1, 2))
    assert kit.ids == {"n00000001": 1}
    with pytest.raises(SourceError, match="line 2 of"):
        kit.val_labels()


@pytest.mark.parametrize(
    "nodes",
    [
        [(1, "n00000001", "a", 0), (1, "n00000002", "b", 0)],
        [(1, "n00000001", "a", 0), (2, "n00000001", "b", 0)],
        [(1, "n00000001", "a", 0), (1, "n00000001", "a", 0)],
    ],
)
def test_an_id_or_a_class_that_is_there_twice_is_an_error(tmp_path, nodes):
    with pytest.raises(SourceError, match=r"meta\.mat gives an id or a class twice"):
        with_kit(tmp_path, nodes=nodes, lines=(1,))


def test_a_devkit_without_ground_truth_labels_nothing(tmp_path):
    _, kit = with_kit(tmp_path)
    assert kit.ground_truth == ()
    with pytest.raises(SourceError, match=f"kit: has no {ilsvrc.GROUND_TRUTH}"):
        kit.val_labels()


def test_a_ground_truth_of_more_than_numbers_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="has lines that are not numbers"):
        with_kit(tmp_path, lines=(1, "n00000002"))


def test_a_folder_without_a_devkit_has_none(tmp_path):
    (tmp_path / "kit").mkdir()
    mini.write(tmp_path / "some.tar", mini.tar_bytes([("a.jpg", b"x")]))
    assert find_devkit(tmp_path, list_items(tmp_path)) is None
