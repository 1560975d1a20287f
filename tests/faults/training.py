"""What the tests of training share: runs of two ranks, their processes, and what must be equal after them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from alexstream.trainer import checkpoint as checkpoints
from tests.support import ROOT
from tests.support.commands import Finished
from tests.support.comparisons import losses_of
from tests.support.forked_commands import Forked
from tests.support.processes import children

LIMIT_S = 300  # a hang, on a machine that has other things to do
IMAGES = 67  # of ``sample_shards``
STEPS = 9  # of the command below, with checkpoints after 3, 5, 6 and 9
IS_SHORT = os.environ.get("ALEXSTREAM_TRIALS", "short") == "short"
CLI = str(ROOT / "cli.py")


def command(shards, run, *words, epochs=2, batch=16, every=3):
    """A training of two ranks, as a user types it; of a small network, for what is tried is not the arithmetic."""
    given = ["train", "--data", shards, "--run", run, "--batch-size", batch, "--epochs", epochs]
    given += ["--device", "cpu", "--checkpoint-every", every, "--width", 0.125, "--quiet", *words]
    return [sys.executable, CLI, *map(str, given)]


def says_how_to_go_on(text, run):
    """Whether the message of a run that was stopped names ``--resume`` only if there is a checkpoint to go on from.

    The first one may have been saved while the message was made.
    """
    return ("--resume" in text and list(run.glob("checkpoint-*.pt"))) or "start it again" in text


def wait_for(process):
    """Wait for a command's end; one that hangs fails, and is ended."""
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        waits = [f"{pid}: {wait_of(pid)}" for pid in tree(process.pid)]
        end(process)
        raise AssertionError(f"hangs after {LIMIT_S} s; {waits}") from None
    return Finished(process.returncode, stdout or "", stderr, process.pid)


def start(words, **environment):
    """A command in a session of its own, that takes Ctrl-C even if the tests run in the background.

    At length it is started as a user does. In the short run it is a fork, and its ranks are forks of it.
    """
    if IS_SHORT and words[1] == CLI:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return Forked(words[2:], {**os.environ, **environment}, forked_ranks=True, **streams)
    return start_anew(words, **environment)


def start_anew(words, **environment):
    """As ``start``, at any length as a user does: for what is tried on the processes themselves."""
    return subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(words, **environment):
    """Run a command to its end; it must end well."""
    done = wait_for(start(words, **environment))
    assert done.code == 0, done.lines
    return done


def end(process):
    """End a command's session, whatever it does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT_S)


def tree(pid):
    """A process and what it started, as long as they are there."""
    return [pid, *(one for child in children(pid) for one in tree(child))]


def wait_of(pid):
    """In what a process waits: the kernel's word for it."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return "gone"


def ranks(launcher):
    """The ranks that a launcher started, in their order."""
    found = []
    for pid in children(launcher):
        with suppress(OSError):
            # Multiprocessing's tracker is a child, too.
            if any(
                word in Path(f"/proc/{pid}/cmdline").read_bytes()
                for word in (b"spawn_main", b"tests.support.forked_commands")
            ):
                found.append(pid)
    return found


def runs(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def require_gone(pids):
    """Ranks end within a moment of their launcher."""
    deadline = time.monotonic() + 60
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if runs(pid)]


def reach(process, run, step):
    """Wait until a command, just started, has taken a step; whether it got there before it ended."""
    begun, path = time.time(), run / "metrics.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        # A resumed run writes its metrics anew at its start.
        fresh = path.is_file() and path.stat().st_mtime > begun - 1
        if process.poll() is not None:
            return False
        if fresh and step in losses_of(run):
            return True
        time.sleep(0.02)
    end(process)
    raise AssertionError(f"step {step} was not reached within {LIMIT_S} s; there are {sorted(losses_of(run))}")


def require_same(run, undisturbed):
    """The losses of every step and every bit of the last checkpoint."""
    assert losses_of(run) == losses_of(undisturbed)
    whole, mine = checkpoints.load_checkpoint(undisturbed), checkpoints.load_checkpoint(run)
    assert mine.step == whole.step
    assert torch.equal(torch.tensor(mine.errors), torch.tensor(whole.errors))
    for name in whole.parameters:
        assert torch.equal(whole.parameters[name], mine.parameters[name]), name
        assert torch.equal(whole.velocity[name], mine.velocity[name]), name
    assert not list(run.glob("*.tmp"))


def resume(words, run, undisturbed):
    """Continue a run, from the beginning if nothing was saved; it must end as the undisturbed one."""
    done = finish([*words, "--resume"] if list(run.glob("checkpoint-*.pt")) else words)
    require_same(run, undisturbed)
    return done
