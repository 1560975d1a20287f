"""A user without a home, a name or a folder that may be written to, as containers have them."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_nobody(*words, code=None, **env):
    """Run the command line, or ``code``, as a user that no table knows, without HOME; what is made is thrown away."""
    what = ["-c", code] if code else [str(ROOT / "cli.py"), *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    # Whether pytest's own folders, and the interpreter, may be read by others depends on the machine.
    probe = {"user": 12345, "group": 12345, "extra_groups": [], "capture_output": True}
    try:
        can_start = subprocess.run([sys.executable, "-c", "0"], **probe).returncode == 0
    except PermissionError:  # a folder above it is closed to others
        can_start = False
    if not can_start:
        pytest.skip("another user cannot start this Python")
    return subprocess.run(
        [sys.executable, *what], cwd=ROOT, env={**environment, **env}, user=12345, group=12345, extra_groups=[],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_compiled_code_finds_a_place_without_a_home():
    code = (
        "import alexstream.core.jit, os, pathlib\n"
        "assert str(pathlib.Path(os.path.expanduser('~'))) == '~'\n"
        "folder = os.environ['NUMBA_CACHE_DIR']\n"
        "print(os.path.isdir(folder) and os.access(folder, os.W_OK))"
    )
    done = as_nobody(code=code)
    assert done.stdout == "True\n", done.stderr
    assert not (ROOT / "~").exists()


def test_a_data_set_of_this_machine_needs_no_home():
    code = (
        "from pathlib import Path\n"
        "from alexstream.pipeline.stream import ShardedData\n"
        "from alexstream.core.errors import AlexstreamError\n"
        "try:\n"
        "    ShardedData(train=Path('/nowhere/train')).facts()\n"
        "except AlexstreamError as error:\n"
        "    print(error)"
    )
    done = as_nobody(code=code)
    assert "/nowhere/train" in done.stdout and "home" not in done.stdout, done.stderr


def test_shards_of_a_store_ask_for_a_place():
    code = (
        "from alexstream.pipeline.stream import ShardedData\n"
        "from alexstream.core.errors import AlexstreamError\n"
        "try:\n"
        "    ShardedData(train='memory://bucket/train').facts()\n"
        "except AlexstreamError as error:\n"
        "    print(error)"
    )
    done = as_nobody(code=code)
    assert "there is no home folder to keep its shards in; give `cache` FOLDER" in done.stdout, done.stderr


def test_charts_are_drawn_without_a_word_of_the_library():
    code = "import cli\nfrom matplotlib.figure import Figure\nprint(len(Figure().axes))"
    done = as_nobody(code=code)
    assert (done.stdout, done.stderr) == ("0\n", "")
