"""What the tests of conversions share: sources, conversions with faults, and what must be true after them."""

import atexit
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.verify import verify
from tests.faults import syscall_faults
from tests.faults.sources import draw
from tests.support import ROOT
from tests.support.commands import Finished
from tests.support.comparisons import file_hashes

LIMIT_S = 300  # a hang, on a machine that has other things to do


class Stem:
    """Runs commands as forks of one process that has loaded everything, under ``syscall_faults.c``."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="stem-"))
        environment = {**os.environ, "LD_PRELOAD": str(syscall_faults.build_library()), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.faults.fork_server"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1, "cwd": ROOT}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        self._answers = b""
        atexit.register(self.close)
        while self._line() != "ready":
            pass

    def run(self, *words, fault=None, **environment):
        """Run ``cli.py words``, with a fault."""
        told = {"words": list(map(str, words)), "folder": str(self.folder), "environment": environment}
        told["environment"] |= fault.environment if fault else {}
        self.process.stdin.write(json.dumps(told) + "\n")
        child = int(self._line())
        try:
            code = int(self._line())
        except TimeoutError:
            os.killpg(child, signal.SIGKILL)
            raise AssertionError(f"{words} did not end within {LIMIT_S} s; {self._said('stderr')}") from None
        return Finished(code, self._said("stdout"), self._said("stderr"), child)

    def _line(self):
        while b"\n" not in self._answers:
            if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
                raise TimeoutError
            self._answers += os.read(self.process.stdout.fileno(), 4096)
        line, _, self._answers = self._answers.partition(b"\n")
        return line.decode()

    def _said(self, name):
        return (self.folder / name).read_text(errors="replace")

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def stem():
    """The one of this test run."""
    return Stem()


def convert(source, folder, *words, fault=None, **environment):
    """``shard``, quietly."""
    return stem().run("shard", "--src", source, "--out", folder, "--quiet", *words, fault=fault, **environment)


def launch(source, folder, *words, fault=None, **environment):
    """``shard`` as a process of its own, in a group of its own: for what happens while it runs."""
    environment = {**os.environ, **(fault.environment if fault else {}), **environment}
    if fault:
        environment["LD_PRELOAD"] = str(syscall_faults.build_library())
    command = [sys.executable, ROOT / "cli.py", "shard", "--src", source, "--out", folder, "--quiet", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A test run that was started in the background may ignore Ctrl-C, and would hand that on.
    default = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    return subprocess.Popen(list(map(str, command)), env=environment, start_new_session=True, **pipes, **default)


def ended(process):
    """Wait for a launched conversion."""
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    return Finished(process.returncode, stdout, stderr, process.pid)


def undisturbed(source, folder, *words, fault=None):
    """Hashes of a conversion's files, proved by ``verify``; the folder is deleted."""
    done = convert(source, folder, *words, fault=fault)
    assert done.code == 0, done.stderr
    assert not verify(Path(folder), quiet=True).findings
    expected = file_hashes(folder)
    shutil.rmtree(folder)
    return expected


def same(folder, expected):
    """Assert that a folder has these files and bytes, and nothing else."""
    assert file_hashes(folder) == expected


def unfinished_or(folder, expected):
    """Assert that a folder does not lie: no manifest, or the whole data set with what may be left beside it."""
    if layout.is_dataset(folder):
        left = {layout.PLAN} | {p.name for p in folder.iterdir() if p.suffix in (".part", ".tmp")}
        assert {name: sha for name, sha in file_hashes(folder).items() if name not in left} == expected


def group_is_gone(group):
    """Assert that no process of a group is left, some seconds after its first has ended; dead ones count as gone."""
    deadline = time.monotonic() + LIMIT_S
    while members(group):
        assert time.monotonic() < deadline, f"processes of group {group} outlive their first: {members(group)}"
        time.sleep(0.05)


def members(group):
    """The living processes of a group."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = place.read_text().rpartition(")")[2].split()[:3]
            found += [int(place.parent.name)] if int(its_group) == group and state not in "ZX" else []
    return found


def make_source(form, tmp_path):
    """Make the drawn source as a folder, a WebDataset tar, or Parquet as on the Hugging Face hub."""
    images = draw(tmp_path / "images", 12)
    if form == "folder":
        return images
    (tmp_path / "src").mkdir()
    if form == "tar":
        assert convert(images, tmp_path / "made", "--encode", "keep").code == 0
        shutil.copy(tmp_path / "made" / "train-000000.tar", tmp_path / "src")
        return tmp_path / "src"
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(images.glob("*/*.png"))
    rows = [{"image": {"bytes": f.read_bytes(), "path": f.name}, "label": int(f.parent.name[-1])} for f in files]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "src" / "train-00000-of-00001.parquet", row_group_size=4)
    return tmp_path / "src"
