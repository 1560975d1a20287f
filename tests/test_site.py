"""The documentation as a site: it builds without a warning, shows the docstrings, and asks nobody else for anything."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from xml.etree import ElementTree

import pytest

from alexstream.pipeline import batch
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.manifest import Counts, Manifest, ShardRecord
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import DatasetStats
from alexstream.sharding.pack import shard, shard_all
from alexstream.sharding.recompute import check_stats
from alexstream.sharding.split_plans import ShardRequest
from alexstream.sharding.verify import verify
from alexstream.trainer.evaluation.evaluate import Assessment, assess
from alexstream.trainer.recipe import Phase, Recipe
from alexstream.trainer.run import evaluate, train
from alexstream.trainer.run_setup import RunOptions
from tests.support import ROOT

pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed (pip install .[docs])")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_there(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / ("index.html" if page.stem == "index" else f"{page.stem}/index.html")).is_file(), page.name


def test_docstrings_are_shown(site):
    page = (site / "api" / "index.html").read_text()
    for words in ("Yield training batches without end", "images_NCHW", "on_bad_sample"):
        assert words in page


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(https?://[^\" >]+)", page.read_text())
        assert not [address for address in fetched if "canonical" not in address], (page, fetched)


class Tables(HTMLParser):
    """The rows of a page's tables, each as the texts of its cells, by the object under whose heading they stand."""

    def __init__(self, page):
        super().__init__()
        self.rows, self._under, self._cell = {}, "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag in ("h1", "h2", "h3", "h4", "h5"):
            self._under = named.get("id") or ""
        if tag == "tr":
            self.rows.setdefault(self._under, []).append([])
        if tag in ("td", "th"):
            self.rows[self._under][-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag not in ("tr", "table"))

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self.rows[self._under][-1][-1] += data


PUBLIC = [
    ShardedData, ShardRequest, Recipe, Phase, RunOptions, Assessment,
    batch.StageTimes, batch.CropBatch, batch.Batch, batch.BatchSlice, batch.DataFacts,
    EncodeRecipe, ShardRecord, Counts, Manifest, DatasetStats,
]  # fmt: skip
CALLED = [
    shard,
    shard_all,
    verify,
    check_stats,
    train,
    evaluate,
    assess,
    ShardedData.training,
    ShardedData.loader,
    ShardedData.validation,
]


@pytest.fixture(scope="module")
def api(site):
    return Tables((site / "api" / "index.html").read_text()).rows


@pytest.mark.parametrize("public", [*PUBLIC, *CALLED], ids=lambda one: one.__qualname__)
def test_every_parameter_is_a_row_with_type_meaning_and_default(public, api):
    rows = [[cell.strip() for cell in row] for row in api[f"{public.__module__}.{public.__qualname__}"]]
    assert rows[0] == ["Name", "Type", "Description", "Default"]
    shown = {name: (kind, meaning, default) for name, kind, meaning, default in rows[1:]}
    asked = {name: one for name, one in inspect.signature(public).parameters.items() if name != "self"}
    assert list(shown) == list(asked)
    for name, (kind, meaning, default) in shown.items():
        assert kind and meaning.endswith("."), (name, kind, meaning)
        needed = (
            asked[name].default is inspect.Parameter.empty and asked[name].kind is not inspect.Parameter.VAR_KEYWORD
        )
        assert (default == "required") == needed, (name, default)


def test_what_the_api_page_shows_is_public(site):
    shown = re.findall(r'<h\d id="([\w.]+)" class="doc', (site / "api" / "index.html").read_text())
    assert len(shown) > 60
    assert not [name for name in shown if name.rpartition(".")[2].startswith("_")]


def test_the_chart_of_the_home_page_has_the_numbers_of_the_results_it_names(site):
    page = (site / "index.html").read_text()
    (name,) = set(re.findall(r"(stream_[\w.-]+\.md)<", page))
    bars = [row for row in Tables(page).rows["how-fast"] if len(row) == 3]
    results = (ROOT / "benchmarks" / "results" / name).read_text()
    table = results[results.index("## JPEG shards") : results.index("## Raw shards")].splitlines()
    expected = [[cell.strip() for cell in line.split("|")[1:4]] for line in table if line.endswith("| 5 |")]
    assert len(expected) > 10
    assert sorted([row[0], *row[2].replace(",", "").split()] for row in bars) == sorted(expected)
    widths = [float(width) for width in re.findall(r'class="bar" style="width: ([\d.]+)%"', page)]
    rates = [int(row[2].split()[0].replace(",", "")) for row in bars]
    assert rates == sorted(rates, reverse=True)
    assert [width / widths[0] for width in widths] == pytest.approx([rate / rates[0] for rate in rates], abs=2e-3)


def test_the_picture_of_the_stages_is_there_in_two_shapes_that_say_the_same(site):
    said = []
    for name in ("stages.svg", "stages-narrow.svg"):
        assert f"pictures/{name}" in (site / "index.html").read_text()
        assert f"docs/pictures/{name}" in (ROOT / "README.md").read_text()
        svg = ElementTree.parse(site / "pictures" / name).getroot()
        said.append([node.text for node in svg.iter() if node.tag.endswith("}text")])
        assert "prefers-color-scheme: dark" in next(node.text for node in svg.iter() if node.tag.endswith("}style"))
    assert said[0] == said[1] and {"1  Shard", "2  Stream", "3  Train"} <= set(said[0])
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert re.search(
            r'<img src="[\w/]*pictures/stages.svg"[^>]* alt="Three stages\. [^"]{100,}">', page.read_text()
        )
