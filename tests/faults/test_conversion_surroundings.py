"""Clocks, languages and other habits of a machine: the bytes do not depend on them."""

import os
import shutil
import subprocess

import pytest

from tests.faults.conversion import convert, ended, launch, same, undisturbed
from tests.faults.sources import draw

PROMISE = "the bytes of a data set do not depend on clock, language or other habits of a machine"
SURROUNDINGS = {
    "LC_ALL=C": {"LC_ALL": "C"},
    "LC_ALL=tr_TR.UTF-8": {"LC_ALL": "tr_TR.UTF-8"},
    "LC_ALL=de_DE.UTF-8": {"LC_ALL": "de_DE.UTF-8"},
    "LANG unset": {"LANG": "", "LC_ALL": ""},
    "TZ": {"TZ": "Pacific/Kiritimati"},
    "PYTHONHASHSEED=0": {"PYTHONHASHSEED": "0"},
    "PYTHONHASHSEED=4294967295": {"PYTHONHASHSEED": "4294967295"},
    "no HOME": {"HOME": "/nonexistent"},
    "PYTHONOPTIMIZE": {"PYTHONOPTIMIZE": "2"},
}


def odd_names(folder):
    """Names that languages sort, fold or spell differently."""
    draw(folder, 12)
    some = folder / "class1" / "0001.png"
    for name in ("Iı.png", "iİ.png", "ä.png", "a\u0308.png", "Z.png", "é,.png", "ß.png"):
        shutil.copy(some, folder / "class0" / name)
    shutil.copytree(folder / "class1", folder / "İstanbul")
    shutil.copytree(folder / "class1", folder / "ilkbahar")
    with open(os.fsencode(folder / "class0") + b"/caf\xe9.png", "wb") as file:
        file.write(some.read_bytes())
    return folder


@pytest.mark.promise(PROMISE, fault="{name}", short=1, long=2)
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_same_bytes_in_other_surroundings(name, trials, tmp_path):
    if trials.count == 1 and name not in ("LC_ALL=C", "PYTHONHASHSEED=0"):
        pytest.skip("only in long runs: a second each")
    source, folder = odd_names(tmp_path / "src"), tmp_path / "out"
    expected = undisturbed(source, folder)
    for _ in trials:
        done = ended(launch(source, folder, **SURROUNDINGS[name]))
        assert done.code == 0, done.stderr
        same(folder, expected)
        shutil.rmtree(folder)


def test_names_that_would_be_read_otherwise_are_refused_in_one_line(tmp_path):
    """Python without its UTF-8 mode, as it is under old locales such as ISO-8859-1."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = ended(launch(odd_names(tmp_path / "src"), tmp_path / "out", **ascii_only))
    assert done.code == 1 and "PYTHONUTF8=1" in done.error and not (tmp_path / "out").exists()


@pytest.mark.promise(PROMISE, fault="a clock that jumps between 1970 and 2106", short=3, long=60)
def test_the_same_bytes_with_a_clock_that_jumps(trials, tmp_path):
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    expected = undisturbed(source, folder)
    for _ in trials:
        done = convert(source, folder, EDGE_CLOCK="jump")
        assert done.code == 0, done.stderr
        same(folder, expected)
        shutil.rmtree(folder)


@pytest.mark.promise(PROMISE, fault="files dated 1970, 2038, 2106, umask {mask:03o}", short=1, long=20)
@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_same_bytes_from_files_of_any_date_and_mode(mask, trials, tmp_path):
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    expected = undisturbed(source, folder)
    for chance in trials:
        for path in source.glob("*/*"):
            when = chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32)])
            os.utime(path, (when, when))
            path.chmod(chance.choice([0o444, 0o755, 0o600]))
        if mask == 0o777:
            mask = chance.choice([0o002, 0o027])  # nobody can work with files that he may not read
        done = masked(source, folder, mask)
        assert done.code == 0, done.stderr
        same(folder, expected)
        shutil.rmtree(folder)


def masked(source, folder, mask):
    before = os.umask(mask)
    try:
        return ended(launch(source, folder))
    finally:
        os.umask(before)


def test_the_clock_of_the_fault_jumps():
    from tests.faults import syscall_faults

    environment = {**os.environ, "LD_PRELOAD": str(syscall_faults.build_library()), "EDGE_CLOCK": "jump"}
    command = ["python3", "-c", "import time; print(len({int(time.time()) for _ in range(20)}))"]
    assert int(subprocess.run(command, env=environment, capture_output=True, text=True).stdout) > 15
