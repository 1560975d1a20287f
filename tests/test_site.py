"""The documentation as a site: it builds without a warning, shows the docstrings, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT

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
    for words in ("Endless training batches", "images_NCHW", "on_bad_sample"):
        assert words in page


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(https?://[^\" >]+)", page.read_text())
        assert not [address for address in fetched if "canonical" not in address], (page, fetched)
