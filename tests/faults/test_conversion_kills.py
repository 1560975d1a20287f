"""Whatever kills a conversion, and when: the same command continues, to the bytes of an undisturbed one."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress

import pytest

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.sample_set import write_sample_set
from tests.faults.conversion import convert, ended, group_is_gone, launch, same, undisturbed, unfinished_or
from tests.faults.sources import draw
from tests.faults.syscall_faults import SyscallFault
from tests.support.comparisons import file_hashes
from tests.support.processes import children

PROMISE = "a killed conversion continues, to the same bytes"
STRIDE = 89  # a prime: trials in a row are far apart, and all places come in turn
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


def calls_of(source, folder, notes, *words):
    """Every call that an undisturbed conversion changes its folder with, and the hashes it ends with."""
    watch = SyscallFault(notes, folder)
    expected = undisturbed(source, folder, *words, fault=watch)
    return watch.calls(), expected


def killed(number, source, tmp_path, at):
    """Send a signal to a conversion right before one of its calls; no process of it is left."""
    fault = SyscallFault(tmp_path / "notes", tmp_path / "out", f"signal {int(number)}", at)
    done = convert(source, tmp_path / "out", fault=fault)
    if done.code > 0:
        assert "interrupted" in done.error
    group_is_gone(done.pid)
    return done


@pytest.mark.promise(PROMISE, fault="{sent} before every call that changes the output folder", short=5, long=400)
@pytest.mark.parametrize("sent", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_signal_at_any_call_costs_no_byte(sent, trials, tmp_path):
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    calls, expected = calls_of(source, folder, tmp_path / "notes")
    number = signal.Signals[sent]
    for chance in trials:
        at = 1 + trials.number * STRIDE % len(calls)
        done = killed(number, source, tmp_path, at)
        assert done.code == CODES[number], done.stderr
        if chance.random() < 0.5:  # once more, somewhere in what is left
            killed(number, source, tmp_path, chance.randint(1, len(calls) - at + 5))
        if folder.is_dir():
            unfinished_or(folder, expected)
        assert convert(source, folder).code == 0
        same(folder, expected)
        shutil.rmtree(folder)


@pytest.mark.promise(PROMISE, fault="{sent} at every call of workers and parent, to one or all", short=1, long=60)
@pytest.mark.parametrize(
    "sent", ["SIGKILL", *(pytest.param(name, marks=pytest.mark.soak) for name in ("SIGTERM", "SIGINT"))]
)
def test_a_signal_to_parent_worker_or_all_costs_no_byte(sent, trials, tmp_path):
    source, folder = draw(tmp_path / "src", 130), tmp_path / "out"
    words = ("--workers", 2)
    calls, expected = calls_of(source, folder, tmp_path / "notes", *words)
    number = int(signal.Signals[sent])
    for chance in trials:
        at = 1 + trials.number * STRIDE % len(calls)
        whom = chance.choice(["signal", "parent", "group"])
        in_worker = "train-00000" in calls[at - 1].path and calls[at - 1].name != "unlink"
        if (whom == "parent" and not in_worker) or (whom == "signal" and sent == "SIGINT"):
            whom = "group"  # the parent's parent is the test's; workers leave Ctrl-C to the parent
        done = convert(source, folder, *words, fault=SyscallFault(tmp_path / "notes", folder, f"{whom} {number}", at))
        assert done.code in (1, CODES[number]), done.stderr
        if done.code == 1:
            assert "a worker process died" in done.error and "run the same command" in done.error
        group_is_gone(done.pid)
        if folder.is_dir():
            unfinished_or(folder, expected)
        assert convert(source, folder, *words).code == 0
        same(folder, expected)
        shutil.rmtree(folder)


def killed_at_random(source, folder, chance, longest_s):
    """Start or continue a conversion, and kill its parent, one worker, or all of it at a random moment.

    That is any moment of all, or, as often, one after it has finished a shard. Returns whether it was still at work.
    """
    before, begun = parts(folder), time.monotonic()
    process = launch(source, folder)
    if chance.random() < 0.5:
        while process.poll() is None and parts(folder) <= before:
            time.sleep(0.005)
        time.sleep(chance.random() * max(0.0, longest_s - (time.monotonic() - begun)))
    else:
        time.sleep(chance.uniform(0.1, 1.0) * longest_s)
    at_work = process.poll() is None
    victims = {0: [process.pid], 1: children(process.pid)[-1:], 2: [*children(process.pid), process.pid]}
    for victim in victims[chance.randrange(3)]:
        with suppress(ProcessLookupError):
            os.kill(victim, random.Random(victim).choice([signal.SIGKILL, signal.SIGTERM]))
    ended(process)
    group_is_gone(process.pid)
    return at_work


def parts(folder):
    """What an unfinished conversion leaves of shards that are done."""
    return {path.name for path in folder.glob("*.part")}


def check_killed(source, tmp_path, trials):
    """Kill a conversion at random moments, always at work: one that gets to its end in between begins anew."""
    folder, left = tmp_path / "killed", []
    began = time.monotonic()
    assert ended(launch(source, folder)).code == 0
    longest_s = time.monotonic() - began
    expected = file_hashes(folder)
    shutil.rmtree(folder)
    for chance in trials:
        while not killed_at_random(source, folder, chance, longest_s):
            assert ended(launch(source, folder)).code == 0  # a kill after the manifest may leave parts behind
            same(folder, expected)
            shutil.rmtree(folder)
        left.append(len(parts(folder)))
        if layout.is_dataset(folder):
            shutil.rmtree(folder)
    assert ended(launch(source, folder)).code == 0
    same(folder, expected)
    assert any(left) or len(left) < 5, f"no kill came between two shards: {left}"


@pytest.mark.promise(PROMISE, fault="SIGKILL or SIGTERM at random moments", short=1, long=40)
def test_a_conversion_killed_at_random_moments_ends_with_the_same_bytes(trials, tmp_path):
    write_sample_set(tmp_path / "images", train_per_class=40, val_per_class=1, quiet=True)
    check_killed(tmp_path / "images" / "train", tmp_path, trials)


@pytest.mark.promise(PROMISE, fault="SIGKILL or SIGTERM at random moments, 500 real images", short=0, long=40)
def test_real_images_killed_at_random_moments(trials, real_images, tmp_path):
    check_killed(real_images / "imagenet-sample" / "train", tmp_path, trials)
