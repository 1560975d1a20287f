"""What the report says of classes and sizes, against counts written down here."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np

from alexstream.report import charts, dataset


def heights_of(svg):
    """Distance from the top of every text of a drawing, by the text."""
    found = {}
    for text in ElementTree.fromstring(str(svg)).iter("{http://www.w3.org/2000/svg}text"):
        place = re.search(r"translate\(\S+ (\S+)\)", text.get("transform", ""))
        found["".join(text.itertext())] = float(place[1] if place else text.get("y"))
    return found


def test_the_first_bar_is_on_top():
    top = heights_of(charts.draw_bars("c", ["first", "second", "third"], [("train", [3, 2, 1])], "images"))
    assert top["first"] < top["second"] < top["third"]


def made(split, counts):
    manifest = SimpleNamespace(split=split, classes=("a", "b", "c"), encode=SimpleNamespace(size_px=256))
    return SimpleNamespace(manifest=manifest, folder=split, count_samples=lambda classes: np.array(counts))


def test_classes_come_by_their_number_of_training_images_the_largest_first(monkeypatch):
    monkeypatch.setattr(dataset, "list_class_names", lambda manifest: ["ant", "bee", "cow"])
    chart = dataset._build_class_chart([made("train", [2, 7, 4]), made("val", [9, 1, 5])])
    assert chart.table.rows == [["bee", "1", "b", "7", "1"], ["cow", "2", "c", "4", "5"], ["ant", "0", "a", "2", "9"]]
    assert "train: 2 to 7 images a class, median 4" in chart.summary


def test_images_with_a_side_shorter_than_the_stored_one_are_counted(monkeypatch):
    sizes = {"source_width": np.array([100, 300, 300, 256]), "source_height": np.array([300, 100, 300, 256])}
    monkeypatch.setattr(dataset, "load_catalog", lambda folder, manifest, names: {name: sizes[name] for name in names})
    chart = dataset._build_size_chart([made("train", [4, 0, 0])])
    assert re.search(r"50(\.0)?\s% have a shorter side of less than 256 pixels", chart.summary)
    by_name = {row[0]: row[1:] for row in chart.table.rows}
    assert by_name["shorter side"][0] == "100" and by_name["shorter side"][-1] == "300"


def test_a_curve_of_many_values_falls_from_left_to_right():
    svg = charts.draw_ranked("r", [("train", np.array([4.0, 1.0, 9.0, 2.0]))], "classes", "images")
    paths = [path.get("d", "") for path in ElementTree.fromstring(str(svg)).iter("{http://www.w3.org/2000/svg}path")]
    points = [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in paths]
    (curve,) = [one for one in points if len(one) == 4 and len({y for _, y in one}) == 4]
    assert curve == sorted(curve) and [y for _, y in curve] == sorted(y for _, y in curve)  # y grows downwards
