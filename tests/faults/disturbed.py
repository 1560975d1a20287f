"""Commands that are run while something goes wrong: signals to their processes, and what they leave behind.

Every process is marked in its environment, so that none can hide; one that does not end within ``LIMIT_S`` is asked for
the tracebacks of its threads and counts as a hang.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.forked_commands import Forked, Stem

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 420
MARK = "ALEXSTREAM_SOAK"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP")


class Broken(AssertionError):
    """A promise that was not kept; the message says which command and how."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    words: str
    code: int
    stdout: str
    stderr: str

    def require_success(self):
        """Raises Broken if it did not end well."""
        if self.code:
            raise Broken(f"{self.words} ended with {self.code}: {self.stderr[-2000:]}")
        return self

    def require_one_line(self):
        """Raises Broken unless it says in one line why it ended.

        One that was killed says nothing, and neither does one that a signal finds when its work is done and Python has
        taken its handlers away.
        """
        said = [line for line in self.stderr.splitlines() if line.startswith("Error: ")]
        gone = self.code == -signal.SIGKILL or (self.code in (-signal.SIGTERM, -signal.SIGINT) and not self.stderr)
        if "Traceback" in self.stderr or not (len(said) == 1 or gone):
            raise Broken(f"{self.words} ended with {self.code} and said: {self.stderr[-2000:]}")
        return self


class Runner:
    """Runs commands with marked processes, temporary files in ``work``/tmp, and faults drawn from ``chance``.

    ``quick``: they are forks of one process, as their ranks are of them (tests/support/forked_commands.py).
    """

    def __init__(self, work, mark, *, quick=False):
        self.work, self.mark = work, mark
        self.temporary = work / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.stem = Stem(**self.marks()) if quick else None

    def marks(self):
        """What is in the environment of every command; an abort makes Python say where its threads are."""
        paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "PYTHONFAULTHANDLER": "1"}
        return {**paths, MARK: self.mark}

    def environment(self):
        """That of every command."""
        return {**os.environ, **self.marks()}

    def start(self, words):
        """A command in a session of its own, whose words go to files."""
        out, err = open(self.work / "stdout", "w+"), open(self.work / "stderr", "w+")  # noqa: SIM115
        if self.stem:
            streams = {"stdout": out.fileno(), "stderr": err.fileno()}
            return Forked(words, self.environment(), of=self.stem, forked_ranks=True, **streams), out, err
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
            stdout=out,
            stderr=err,
            env=self.environment(),
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        return process, out, err

    def run(self, *words, disturb=None):
        """Run a command to its end; ``disturb(process)`` is done as it runs."""
        started = self.start(words)
        process, out, err = started
        with out, err:
            try:
                if disturb is not None:
                    disturb(process)
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                raise Broken(f"{words[0]} hangs after {LIMIT_S} s: {self.stacks(process, err)}") from None
            finally:
                self.end(process)
            texts = [(file.seek(0), file.read())[1] for file in (out, err)]
        return Ended(" ".join(map(str, words)), process.returncode, *texts)

    def stacks(self, process, err):
        """Where the kernel and Python have the processes of a command that hangs."""
        found = []
        for pid in self.processes():
            with suppress(OSError):
                folder = Path(f"/proc/{pid}")
                name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[-80:]
                found.append(f"{pid} {name} in {(folder / 'wchan').read_text()}")
                os.kill(pid, signal.SIGABRT)
                os.kill(pid, signal.SIGCONT)
        time.sleep(5)
        err.seek(0)
        return "\n".join([*found, err.read()[-6000:]])

    def end(self, process):
        """End what is left of a command, as a last resort."""
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)

    def processes(self):
        """All processes of commands that are there."""
        found, mark = [], f"{MARK}={self.mark}".encode()
        none = self.stem.process.pid if self.stem else 0
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
                if int(folder.name) != none and state != "Z" and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def left_behind(self, patience_s=30.0):
        """What commands left: processes, files in the temporary folder and in shared memory; a list of lines."""
        deadline = time.monotonic() + patience_s
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        left = [f"process {pid}" for pid in self.processes()]
        for cache in self.temporary.glob("torchinductor_*"):
            cache.rmdir()  # torch makes it when it is loaded; empty, unless something is compiled
        return left + [f"{path}" for folder in (self.temporary, Path("/dev/shm")) for path in folder.iterdir()]


def answers(pid, number):
    """Whether a process has a handler for a signal."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    return False


def signalled(runner, chance, name, longest_s):
    """A disturbance: a signal to one of the command's processes at a random moment; STOP for some seconds.

    The moment comes after the command has begun to answer signals, however slowly it starts. The attribute ``came``
    says afterwards whether it was still at work.
    """

    def disturb(process):
        while process.poll() is None and not answers(process.pid, signal.SIGTERM):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.05, 1.0) * longest_s)
        disturb.came = process.poll() is None
        victims = runner.processes()
        if not (disturb.came and victims):
            return
        victim = chance.choice([process.pid, *victims])
        with suppress(ProcessLookupError):
            os.kill(victim, getattr(signal, name))
        if name == "SIGSTOP":
            time.sleep(chance.uniform(1, 5))
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)

    disturb.came = False
    return disturb
