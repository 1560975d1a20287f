"""Charts by their SVG: text stays text, ids differ from chart to chart, odd numbers are drawn all the same."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from alexstream.report import charts
from alexstream.report.charts import Line

HOSTILE = ["<script>alert(1)</script>", "$\\frac{1}", 'quoted" onload="x', "two\nlines", "a" * 99, "]]>", "--><b>"]


def parsed(svg):
    return ElementTree.fromstring(str(svg))


def texts(svg):
    return ["".join(one.itertext()) for one in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_hostile_names_are_text_in_a_drawing():
    svg = charts.draw_bars("c", HOSTILE, [("train", list(range(7)))], "images")
    written = texts(svg)
    assert "<script>alert(1)</scri…"[:20] in " ".join(written) and "$\\frac{1}" in written and r"two\nlines" in written
    assert not list(parsed(svg).iter("{http://www.w3.org/2000/svg}script"))
    assert not any("onload" in name for element in parsed(svg).iter() for name in element.attrib)


def test_ids_of_two_charts_of_the_same_numbers_differ_and_are_found():
    line = Line(name="x", x_N=np.arange(3.0), y_N=np.arange(3.0), dots=True)
    seen = []
    for name in ("first", "second"):
        elements = list(parsed(charts.draw_lines(name, [line], "step", "nats")).iter())
        ids = {element.get("id") for element in elements} - {None}
        used = {value for e in elements for value in re.findall(r"#([^)]+)", e.get("clip-path", ""))}
        used |= {e.get("{http://www.w3.org/1999/xlink}href")[1:] for e in elements if e.tag.endswith("}use")}
        assert used and used <= ids
        seen.append(ids)
    assert not seen[0] & seen[1]


@pytest.mark.parametrize("values", [[1.0], [np.nan, 1.0], [0.0, 0.0], [np.nan, np.nan], [1e-9, 1e9]])
@pytest.mark.parametrize("log", [False, True])
def test_few_and_odd_numbers_are_drawn(values, log):
    line = Line(name="x", x_N=np.arange(len(values)) + 1.0, y_N=np.array(values), dots=True)
    assert "<svg" in charts.draw_lines("odd", [line], "step", "nats", log=log)


def test_a_thousand_classes_are_one_small_shape():
    counts = np.random.default_rng(0).integers(700, 1300, 20_000).astype(float)
    assert len(charts.draw_ranked("many", [("train", counts), ("val", counts / 26)], "class", "images")) < 100_000


@pytest.mark.parametrize(("low", "high"), [(1, 1), (224, 256), (90, 9331), (1, 65500)])
def test_sizes_are_drawn_with_plain_numbers(low, high):
    edges = np.geomspace(0.8 * low, 1.25 * high, 49)
    svg = charts.draw_histogram(
        "sizes", [("width", np.arange(48.0))], edges, "pixels", "images", mark=(256, "stored side")
    )
    assert {"pixels", "images", "width", "stored side"} < set(texts(svg)) and "mathdefault" not in svg
