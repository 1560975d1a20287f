"""How far it is: a bar where somebody looks on, whole lines where a log is written, nothing for short work."""

import io
import time
from itertools import pairwise

import pytest

from alexstream.core import progress as module
from alexstream.core.progress import progress_bar, tell_activities, tell_activity, tells_activities
from alexstream.sharding import pack
from tests.support.commands import call


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, monkeypatch, *, quiet=False, silent_s=0.0):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(module, "DELAY_S", silent_s)
    monkeypatch.setattr(module, "FIRST_LINE_S", 0.0)
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


def test_a_log_gets_its_first_line_after_five_seconds_and_then_one_every_twenty(monkeypatch):
    now = [0.0]
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar(100, "images", "verify") as bar:
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = 0.0
        seen = []
        for _ in range(60):
            now[0] += 1.0
            before = len(stream.getvalue().splitlines())
            bar.update()
            seen += [now[0]] * (len(stream.getvalue().splitlines()) - before)
    assert seen[0] == 5.0 and len(seen) == 3
    assert all(20 <= later - earlier <= 22 for earlier, later in pairwise(seen))


def test_slow_work_has_a_rate_too():
    assert module._format_rate(81.26, "images") == "81.3 images/s"
    assert module._format_rate(1 / 32, "blocks") == "32 s each" and module._format_rate(0.0, "blocks") == "0.0 blocks/s"


def test_what_takes_long_is_told_at_doubling_times(monkeypatch, capsys):
    monkeypatch.setattr(module, "FIRST_LINE_S", 0.05)
    with tell_activities(True), tell_activity("listing photos"):
        assert tells_activities()
        deadline = time.monotonic() + 30
        lines = []
        while len(lines) < 3 and time.monotonic() < deadline:
            lines += capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and all(line.startswith("listing photos, ") for line in lines)
    assert all(line.endswith(" s so far") for line in lines)


def test_nothing_is_told_of_what_is_soon_done_nor_to_programs(monkeypatch, capsys):
    with tell_activities(True), tell_activity("listing photos"):
        pass
    monkeypatch.setattr(module, "FIRST_LINE_S", 0.0)
    with tell_activity("listing photos"):
        time.sleep(0.05)
    assert capsys.readouterr().err == "" and not tells_activities()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_command_tells_what_takes_long(sample_images, tmp_path, monkeypatch, quiet):
    listed = pack.plan_splits

    def slow(request):
        time.sleep(0.5)
        return listed(request)

    monkeypatch.setattr(pack, "plan_splits", slow)
    monkeypatch.setattr(module, "FIRST_LINE_S", 0.05)
    result = call("shard", "--src", sample_images / "val", "--out", tmp_path / "val", *(["--quiet"] if quiet else []))
    assert result.exit_code == 0
    assert (f"listing the images of {sample_images / 'val'}, " in result.stderr) is not quiet
