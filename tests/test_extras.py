"""Optional packages: what needs them says so in one line and at once, and nothing else does."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from alexstream.commands.main import main
from alexstream.core.errors import AlexstreamError
from alexstream.core.extras import has_extra, require_extra
from tests.support import ROOT

OF_REPORTS = ("matplotlib", "jinja2", "markupsafe")
REMEDY = "which is not installed: pip install 'alexstream[report]'"


@pytest.fixture(params=OF_REPORTS)
def absent(request, monkeypatch):
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


def test_an_extra_is_there_if_all_its_packages_are(absent, monkeypatch):
    assert not has_extra("report")
    with pytest.raises(AlexstreamError) as error:
        require_extra("report", "pictures")
    assert str(error.value) == f"pictures need {absent}, {REMEDY}"
    monkeypatch.undo()
    assert has_extra("report")
    require_extra("report", "pictures")


@pytest.mark.parametrize(
    "words",
    [
        ["stats", "{data}", "--plot", "a.png"],
        ["preview", "{data}", "--out", "a.png"],
        ["report", "{data}", "--out", "a.html"],
        ["kernels", "--checkpoint", "{data}", "--out", "a.png"],
        ["neighbours", "--checkpoint", "{data}", "--data", "{data}", "--out", "a.png"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_draw_name_the_extra_before_they_begin(tmp_path, monkeypatch, absent, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()  # of which any work would say that it holds no data
    done = CliRunner().invoke(main, [word.replace("{data}", "empty") for word in words])
    assert done.exit_code == 1 and done.output.strip().splitlines()[-1].endswith(f"need {absent}, {REMEDY}")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_all_that_draws_nothing_is_imported_without_them():
    code = (
        "import sys, pathlib, importlib\n"
        f"sys.modules.update(dict.fromkeys({OF_REPORTS}))\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for top in ('core', 'sharding', 'pipeline', 'trainer', 'commands'):\n"
        "    for path in sorted((root / top).rglob('*.py')):\n"
        "        name = '.'.join(path.relative_to(root).with_suffix('').parts).removesuffix('.__init__')\n"
        "        importlib.import_module(f'alexstream.{name}')\n"
        "print(len(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
