"""How far it is: a bar where somebody looks on, whole lines where a log is written, nothing for short work."""

import io

import pytest

from alexstream.core import progress as module
from alexstream.core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, monkeypatch, *, quiet=False, silent_s=0.0):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(module, "DELAY_S", silent_s)
    monkeypatch.setattr(module, "LINE_S", 0.0)
    with progress_bar(1500, "images", "shard train", quiet=quiet) as bar:
        for _ in range(3):
            bar.update(500)
    return stream.getvalue()


def test_a_log_gets_lines_with_rate_and_time_left(monkeypatch):
    lines = shown(io.StringIO(), monkeypatch).splitlines()
    assert all(line.startswith("shard train: ") and "images/s" in line for line in lines) and len(lines) >= 2
    assert " of 1,500 images, " in lines[0] and lines[0].endswith(" left") and "1,500 images in " in lines[-1]


def test_a_terminal_gets_a_bar(monkeypatch):
    text = shown(Terminal(), monkeypatch)
    assert "\r" in text and "1500/1500" in text


@pytest.mark.parametrize("kind", [module._Bar, module._LogProgress])
def test_one_whose_making_was_interrupted_is_closed_in_silence(kind):
    """Python deletes what was not made to its end, and tqdm closes what is deleted."""
    half_made = kind.__new__(kind)
    half_made.__del__()


def test_quiet_and_short_work_say_nothing(monkeypatch):
    assert shown(io.StringIO(), monkeypatch, quiet=True) == ""
    assert shown(io.StringIO(), monkeypatch, silent_s=60.0) == ""
