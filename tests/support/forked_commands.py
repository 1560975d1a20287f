"""Commands as forks of a process that has loaded torch and DALI: a training without the seconds of its start.

Started as a program, it is that process; ``Forked`` asks the one of this test run for a command. What is forked is a
process as any other, in a session of its own, with its own environment, and it ends as Python ends; only what is read
when a library is loaded is that of the test run. Ranks and workers are started anew, as always, unless ``forked_ranks``
says that they are forks of the command.
"""

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from types import SimpleNamespace

from tests.support import ROOT

LOADED = (
    "cli",
    "tests.environments.meeting",
    "alexstream.trainer.loop",
    "alexstream.pipeline.stream",
    "pyarrow.parquet",
    "jinja2",
)
LOADED += ("matplotlib.figure", "matplotlib.backends.backend_agg")
LARGEST = 1 << 20  # bytes of a message


class Stem:
    """The process that is forked; one command at a time is asked for."""

    def __init__(self, **environment):
        """Start it; ``environment`` is what /proc says of every process that comes from it."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # No threads of its own: a fork has only the one that forks.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **environment}
        command = [sys.executable, "-m", "tests.support.forked_commands", str(theirs.fileno())]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(self.close)

    def ask(self, descriptors=(), **told):
        """What it answers."""
        socket.send_fds(self._channel, [json.dumps(told).encode()], list(descriptors))
        answered = self._channel.recv(LARGEST)
        if not answered:
            raise RuntimeError("the process that forks commands is gone")
        return json.loads(answered)

    def close(self):
        """End it."""
        self._channel.close()
        self.process.wait(60)


@cache
def stem(preloaded=""):
    """The one of this test run; another for each library that is loaded before all others."""
    return Stem(**({"LD_PRELOAD": preloaded} if preloaded else {}))


class Forked:
    """A command of the program, with the methods of ``subprocess.Popen`` that tests use.

    ``stdout`` and ``stderr``: a descriptor, ``subprocess.DEVNULL``, or ``subprocess.PIPE`` to read text from the
    attribute of that name.
    """

    def __init__(
        self, words, environment, *, stdout=subprocess.PIPE, stderr=subprocess.PIPE, main="cli", forked_ranks=False,
        of=None,
    ):  # fmt: skip
        self._stem, self.returncode = of or stem(environment.get("LD_PRELOAD", "")), None
        null = os.open(os.devnull, os.O_WRONLY)
        given = [null if stream == subprocess.DEVNULL else stream for stream in (stdout, stderr)]
        pipes = [os.pipe() if stream == subprocess.PIPE else (None, stream) for stream in given]
        told = {"main": main, "words": list(map(str, words)), "environment": dict(environment)}
        told["forked_ranks"] = forked_ranks
        self.pid = self._stem.ask([theirs for _, theirs in pipes], cwd=os.getcwd(), **told)
        for theirs in [null, *(theirs for mine, theirs in pipes if mine is not None)]:
            os.close(theirs)
        self.stdout, self.stderr = (None if mine is None else os.fdopen(mine, errors="replace") for mine, _ in pipes)

    def poll(self):
        """Its exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._stem.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end: its exit code. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout=None):
        """Read to the end and wait: (stdout, stderr), None for what is not read. Raises subprocess.TimeoutExpired."""
        deadline, said = None if timeout is None else time.monotonic() + timeout, [None, None]

        def read(place, stream):
            said[place] = stream.read()

        readers = [
            threading.Thread(target=read, args=one, daemon=True)
            for one in enumerate((self.stdout, self.stderr))
            if one[1] is not None
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return tuple(said)

    def send_signal(self, number):
        """Send it a signal, if it is there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(words, environment=None, timeout=300, **options):
    """A command to its end, as ``subprocess.run`` with text that is captured."""
    process = Forked(words, os.environ if environment is None else environment, **options)
    try:
        said = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(words, process.returncode, *said)


def main():
    """Load everything; then fork as told until there is no more."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, LARGEST, 2)
        if not message:
            return
        told = json.loads(message)
        if "poll" in told:
            pid, status = os.waitpid(told["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                channel.close()
                command(told, descriptors)
            for one in descriptors:
                os.close(one)
        channel.send(json.dumps(answer).encode())


def command(told, descriptors):
    """In a fork: be the command; ends with SystemExit, from where Python leaves as it always does."""
    os.setsid()
    for number, one in enumerate((os.open(os.devnull, os.O_RDONLY), *descriptors)):
        os.dup2(one, number)
        os.close(one)
    # A test run that was started in the background may ignore Ctrl-C, and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["cwd"])
    sys.argv = ["cli.py", *told["words"]]
    if told["forked_ranks"]:
        # Workers of a conversion are not: they count on having no pipes but their own.
        ranks = importlib.import_module("alexstream.trainer.distributed.processes")
        ranks.multiprocessing = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    sys.exit(importlib.import_module(told["main"]).main(prog_name="cli.py"))


if __name__ == "__main__":
    main()
