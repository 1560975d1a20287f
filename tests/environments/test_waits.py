"""Ranks that wait for each other: who is told of it, what ends it, and what does not hold it up."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta

import pytest
import torch.distributed as dist

from tests.support import ROOT
from tests.support.forked_commands import Forked, run

LIMIT_S = 240  # a hang, on a machine that has other things to do
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Started:
    """A process that meets another, or whole runs of two, in a session of its own; lines of stderr as they come."""

    def __init__(self, folder, *words, before=(), rank=None, port=0, host="127.0.0.1"):
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        environment |= {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OPENBLAS_NUM_THREADS": "1"}
        if rank is not None:
            values = (rank, 2, rank, 2, host, port)
            environment |= dict(zip(VARIABLES, map(str, values), strict=True))
        if not before:
            main, streams = "tests.environments.meeting", {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            self.process = Forked(["meet", folder, *words], environment, main=main, **streams)
            return
        command = [*before, sys.executable, "-m", "tests.environments.meeting", "meet", folder, *words]
        self.process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def read_until(self, words):
        """Read lines of stderr up to one that has these words, and return it."""
        for line in self.process.stderr:
            if words in line:
                return line.strip()
        raise AssertionError(f"it ended without a word of {words!r}, with exit code {self.process.wait()}")

    def end(self):
        """Wait for its end: the exit code, and the lines of stderr that were not read yet."""
        try:
            _, rest = self.process.communicate(timeout=LIMIT_S)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, [line for line in rest.splitlines() if line]

    def fail(self):
        """Its only line of error, with which it must end."""
        code, lines = self.end()
        assert code == 1 and len(lines) == 1 and lines[0].startswith("Error: "), (code, lines)
        return lines[0]


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def await_file(path):
    deadline = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def require_allowed(*command):
    """Skip where this machine does not let us have such a surrounding."""
    done = subprocess.run([*command, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not allowed here: {' '.join(command)} ({done.stderr.strip()})")
    return command


def met(folder):
    return sorted(path.name for path in folder.iterdir()) == ["heard-0", "heard-1", "met-0", "met-1"]


@pytest.mark.parametrize(
    ("rank", "host", "said", "number", "code"),
    [
        (0, "127.0.0.1", "rank 0 has waited 1 s for rank 1 of 2 at 127.0.0.1:{port}", signal.SIGTERM, 143),
        (1, "127.0.0.1", "rank 1 has waited 1 s for rank 0 at 127.0.0.1:{port} (Connection re", signal.SIGINT, 130),
        (0, "no-host.invalid", "rank 0: MASTER_ADDR 'no-host.invalid' cannot be resolved", signal.SIGTERM, 143),
    ],
)
def test_a_rank_that_waits_alone_says_for_whom_and_hears_signals(rank, host, said, number, code, tmp_path):
    port = free_port()
    started = Started(tmp_path, "--timeout", 2, rank=rank, port=port, host=host)
    assert started.read_until(said.format(port=port)).startswith(said.format(port=port))
    started.process.send_signal(number)
    ended, lines = started.end()
    assert ended == code
    told = [line for line in lines if "has waited" not in line and "cannot be resolved" not in line]  # or told again
    assert told == ["Error: interrupted; what was finished is kept"]


def test_a_signal_is_heard_where_a_library_waits(tmp_path):
    """Somebody takes the connection to rank 0's store and says nothing: torch waits for a word, in C++."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        started = Started(tmp_path, "--timeout", 2, rank=1, port=silent.getsockname()[1])
        assert "which accepted the connection but does not answer" in started.read_until("has waited")
        started.process.send_signal(signal.SIGTERM)
        code, lines = started.end()
    assert code == 143
    assert [line for line in lines if "has waited" not in line] == ["Error: interrupted; what was finished is kept"]


def test_a_port_that_another_program_has_is_named(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        error = Started(tmp_path, rank=0, port=port).fail()
    assert error.startswith(f"Error: MASTER_PORT: received {port}, which another program") and "resume" not in error


@pytest.mark.parametrize("message", ["count", "key", "delete", "garbage"])
def test_a_strangers_message_to_the_store_keeps_nobody_from_meeting(message, tmp_path):
    port = free_port()
    first = Started(tmp_path, "--timeout", 2, rank=0, port=port)
    first.read_until("rank 0 has waited 1 s for rank 1")
    if message == "garbage":
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(os.urandom(4096))
    else:
        store = dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=60), wait_for_workers=False)
        send = {"count": lambda name: store.add(name, 100), "key": lambda name: store.set(name, "x")}
        for name in ("alexstream/here", "alexstream//here/1", "alexstream//here/0"):
            send.get(message, store.delete_key)(name)
    second = Started(tmp_path, rank=1, port=port)
    assert second.end() == (0, [])
    code, lines = first.end()
    assert code == 0 and met(tmp_path) and not [line for line in lines if "has waited" not in line]


def test_a_rank_that_comes_late_to_a_wait_is_named(tmp_path):
    error = Started(tmp_path, "--late", 60, "--timeout", 2).end()
    assert error[0] == 1
    *waits, last = error[1]
    assert last == "Error: rank 0 did not answer for 2 s (--timeout), so the run was stopped; start it again"
    assert waits and all(line.startswith("rank 1 has waited ") for line in waits)


def test_under_torchrun_a_rank_that_hears_nothing_ends_by_itself(tmp_path):
    port = free_port()
    late = Started(tmp_path, "--late", 90, "--timeout", 2, rank=0, port=port)
    code, lines = Started(tmp_path, "--timeout", 2, rank=1, port=port).end()
    late.process.kill()
    late.end()
    assert code == 1
    assert [line for line in lines if "has waited" not in line] == [
        "Error: rank 1 heard nothing from another rank for 2 s (--timeout), so the run was stopped; start it again"
    ]


@pytest.mark.soak
def test_a_pause_longer_than_the_timeout_ends_no_run(tmp_path):
    """As Ctrl-Z, docker pause or a suspended job: all processes stand still together."""
    started = Started(tmp_path, "--late", 3, "--timeout", 5)
    await_file(tmp_path / "met-1")
    os.killpg(started.process.pid, signal.SIGSTOP)
    time.sleep(11)  # the timeout, and what a rank is given to leave its wait
    os.killpg(started.process.pid, signal.SIGCONT)
    assert started.end()[0] == 0 and met(tmp_path)


def test_a_loopback_that_is_down_is_named(tmp_path):
    apart = require_allowed("unshare", "-n")
    error = Started(tmp_path, before=apart).fail()
    assert "the loopback interface does not work" in error and "--devices 1" in error and "resume" not in error


@pytest.mark.parametrize(
    "surrounding",
    [
        pytest.param("unshare -m sh -c 'umount -l /proc && exec \"$@\"' -", id="no /proc"),
        pytest.param("unshare -p -f --mount-proc unshare -p -f", id="another PID namespace's /proc"),
        pytest.param(
            "unshare -n sh -c 'ip link set lo up && ip addr del 127.0.0.1/8 dev lo && exec \"$@\"' -",
            id="IPv6 loopback only",
        ),
    ],
)
def test_ranks_meet_without_what_they_do_not_need(surrounding, tmp_path):
    words = ("sh", "-c", f'exec {surrounding} "$@"', "-")
    require_allowed(*words)
    code, lines = Started(tmp_path, before=words).end()
    assert code == 0 and met(tmp_path), (code, lines)
    assert not [line for line in lines if "The hostname of the client socket" not in line]  # torch looks for ::1's


@pytest.mark.parametrize("most", [1, 8])
def test_a_limit_on_processes_is_named(most, tmp_path):
    words = ["prlimit", f"--nproc={most}"]
    if os.getuid() == 0:  # whom no such limit holds
        capabilities = "+dac_override,+dac_read_search"
        words = ["setpriv", "--reuid", "23456", "--inh-caps", capabilities, "--ambient-caps", capabilities, *words]
    require_allowed(*words)
    code, lines = Started(tmp_path, before=words).end()
    said = "Error: the system starts no more threads or processes for this user"
    assert code == 1 and lines[-1].startswith(said), (code, lines)
    assert "Traceback" not in "".join(lines) and "resume" not in lines[-1]


def test_one_of_several_processes_does_not_train_alone(sample_shards, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29530"}
    words = ["train", "--data", sample_shards, "--run", tmp_path / "run", "--width", 0.125, "--epochs", 1]
    done = run(words, environment)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
    assert done.stderr.startswith("Error: WORLD_SIZE=2 says that this is one of several processes, but LOCAL_RANK")
