"""Cores and memory that a container may use: read from made-up trees of control groups, and from real ones."""

import errno
import os
import resource
import subprocess
import sys

import pytest

from alexstream.commands.group import Group
from alexstream.core import limits
from tests.support import ROOT

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine of 64 cores with the control groups that a test says; gives its proc file system."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(limits, "_CGROUP_ROOT", tmp_path / "nowhere")

    def make(groups, mounts, files):
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
        for root, point, kind, options in mounts:
            place = str(tmp_path / point).replace(" ", r"\040")
            lines.append(f"30 22 0:26 {root} {place} ro,nosuid shared:9 master:3 - {kind} cgroup {options}")
        (proc / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        return proc

    return make


UNIFIED = [("/", "cg", "cgroup2", "rw,nsdelegate")]


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2), ("800000 50000", 16)],
)
def test_a_quota_of_version_2_is_rounded_up(machine, quota, cores):
    proc = machine(["0::/"], UNIFIED, {"cg/cpu.max": quota})
    assert limits.count_cores(proc) == cores


def test_the_smallest_limit_of_all_groups_above_holds(machine):
    files = {
        "cg/a/cpu.max": "300000 100000", "cg/a/b/cpu.max": "max 100000", "cg/a/b/c/cpu.max": "900000 100000",
        "cg/a/memory.max": "max", "cg/a/b/memory.max": 3 * GIB, "cg/a/b/c/memory.max": 5 * GIB,
        "cg/other/cpu.max": "100000 100000", "cg/a/b/c/below/memory.max": GIB,
    }  # fmt: skip
    proc = machine(["0::/a/b/c"], UNIFIED, files)
    assert limits.count_cores(proc) == 3 and limits.memory_limit_bytes(proc) == 3 * GIB


def test_version_1_has_a_tree_for_each_controller(machine):
    mounts = [("/", "cg/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"), ("/", "cg/memory", "cgroup", "rw,memory")]
    mounts.append(("/", "cg/cpuset", "cgroup", "rw,cpuset"))
    files = {
        "cg/cpu,cpuacct/docker/cpu.cfs_quota_us": "-1", "cg/cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
        "cg/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000", "cg/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
        "cg/memory/docker/y/memory.limit_in_bytes": 2 * GIB, "cg/memory/memory.limit_in_bytes": 9223372036854771712,
    }  # fmt: skip
    groups = ["12:cpuset:/", "5:memory:/docker/y", "4:cpu,cpuacct:/docker/x", "1:name=systemd:/docker/x", "0::/"]
    proc = machine(groups, mounts, files)
    assert limits.count_cores(proc) == 3 and limits.memory_limit_bytes(proc) == 2 * GIB


def test_a_container_sees_its_own_group_where_its_name_says_another_path(machine):
    mounts = [("/docker/x", "cg/cpu", "cgroup", "rw,cpu"), ("/docker/x", "cg/memory dir", "cgroup", "rw,memory")]
    files = {
        "cg/cpu/cpu.cfs_quota_us": "100000", "cg/cpu/cpu.cfs_period_us": "100000",
        "cg/memory dir/inner/memory.limit_in_bytes": GIB, "cg/memory dir/memory.limit_in_bytes": 4 * GIB,
    }  # fmt: skip
    proc = machine(["4:cpu:/docker/x", "3:memory:/docker/x/inner"], mounts, files)
    assert limits.count_cores(proc) == 1 and limits.memory_limit_bytes(proc) == GIB


def test_a_group_outside_of_what_is_mounted_has_the_limits_of_the_mount(machine):
    proc = machine(["0::/../../other"], UNIFIED, {"cg/cpu.max": "200000 100000", "other/cpu.max": "100000 100000"})
    assert limits.count_cores(proc) == 2


def test_without_proc_the_usual_place_is_looked_at(tmp_path, machine, monkeypatch):
    machine([], [], {"fs/cpu.max": "100000 100000", "fs/memory.max": GIB})
    monkeypatch.setattr(limits, "_CGROUP_ROOT", tmp_path / "fs")
    assert limits.count_cores(tmp_path / "no-proc") == 1 and limits.memory_limit_bytes(tmp_path / "no-proc") == GIB


def test_without_groups_the_machine_is_what_it_is(machine):
    proc = machine(["0::/"], [], {})
    assert limits.count_cores(proc) == 64
    assert limits.memory_limit_bytes(proc) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_nonsense_in_a_group_is_no_limit(machine):
    files = {"cg/cpu.max": "soon 100000", "cg/a/cpu.max": "100000 0", "cg/a/b/cpu.max": "", "cg/a/memory.max": "many"}
    proc = machine(["0::/a/b"], UNIFIED, files)
    assert limits.count_cores(proc) == 64 and limits.memory_limit_bytes(proc) > GIB // 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cg/memory.events", "low 0\nhigh 3\nmax 9\noom 2\noom_kill 7"),
        ("proc/vmstat", "nr_free_pages 1\noom_kill 7"),
    ],
)
def test_what_was_ended_for_memory_is_counted(machine, name, text):
    proc = machine(["0::/"], UNIFIED, {name: text, "cg/memory.max": 3 * GIB // 2})
    assert limits.count_oom_kills(proc) == 7 and limits.explain_oom_kill(7, proc) == ""
    assert limits.explain_oom_kill(6, proc) == "memory was short: 1.5 GiB may be used here"


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 4), ({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "6,2"}, 6), ({"OMP_NUM_THREADS": "0"}, 4),
        ({"OMP_NUM_THREADS": "many"}, 4), ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x"}, 4),
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "x"}, 2),
    ],
)  # fmt: skip
def test_threads_are_those_of_the_environment_or_a_share_of_the_cores(monkeypatch, variables, threads):
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(limits, "count_cores", lambda: 8)
    assert limits.default_num_threads(2) == threads


# The same with groups that the kernel holds to their limits.

BIG_HOST = """
#define _GNU_SOURCE
#include <sched.h>
int sched_getaffinity(pid_t p, size_t n, cpu_set_t *s) {
    for (int i = 0; i < 64; i++) CPU_SET_S(i, n, s);
    return 0;
}
"""


@pytest.fixture
def big_host(tmp_path):
    """A library to be preloaded: affinity says 64 cores, as on a large host."""
    source, library = tmp_path / "big.c", tmp_path / "big.so"
    source.write_text(BIG_HOST)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler: {error}")
    return {**os.environ, "LD_PRELOAD": str(library)}


def test_one_core_of_a_large_host(cgroup, big_host):
    group = cgroup("cpu")
    group.allow_cores(1.5)
    code = "from alexstream.core.limits import count_cores; print(count_cores())"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, cwd=ROOT, env=big_host, capture_output=True, text=True).stdout == "64\n"
    done = subprocess.run(words, cwd=ROOT, env=big_host, capture_output=True, text=True, preexec_fn=group.enter)
    assert done.stdout == "2\n", done.stderr


THREADS_OF_A_TRAINING = """
import os, torch
from alexstream.trainer.distributed import launch
launch.choose_single_device("cpu")
alone = torch.get_num_threads()
torch.set_num_threads(32)
launch._configure_device("cpu", 0, 2)
print(alone, torch.get_num_threads(), os.environ["TORCHINDUCTOR_COMPILE_THREADS"])
"""


def test_a_training_on_one_core_of_a_large_host_computes_in_one_thread(cgroup, big_host):
    """In 32 threads for each of two ranks it has a twentieth of the speed."""
    group, names = cgroup("cpu"), ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
    group.allow_cores(1)
    surroundings = {name: value for name, value in big_host.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", THREADS_OF_A_TRAINING], cwd=ROOT, env=surroundings, capture_output=True, text=True,
        preexec_fn=group.enter,
    )  # fmt: skip
    assert done.stdout == "1 1 1\n", done.stderr


def test_a_limit_of_memory_is_the_memory_there_is(cgroup):
    group = cgroup("memory")
    group.allow_bytes(GIB)
    code = "from alexstream.core.limits import memory_limit_bytes; print(memory_limit_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, preexec_fn=group.enter
    )
    assert done.stdout == f"{GIB}\n", done.stderr


STARTS_ONE_THAT_TAKES_ALL = """
import subprocess, sys
from alexstream.core.limits import explain_oom_kill, count_oom_kills
kept = bytearray(60 << 20)  # the larger part, until the other takes more
before = count_oom_kills()
code = "from alexstream.core.limits import raise_oom_score; raise_oom_score(); "
code += "x = [bytearray(1 << 20) for _ in range(4096)]"
print(subprocess.run([sys.executable, "-c", code]).returncode, explain_oom_kill(before), len(kept) >> 20)
"""


def test_a_process_that_dies_first_leaves_the_one_that_says_so(cgroup):
    group = cgroup("memory")
    group.allow_bytes(128 << 20)
    done = subprocess.run(
        [sys.executable, "-c", STARTS_ONE_THAT_TAKES_ALL], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=group.enter,
    )  # fmt: skip
    assert done.stdout == "-9 memory was short: 0.1 GiB may be used here 60\n", (done.returncode, done.stderr)


def fail(error):
    """Return the exit code of a command that ends in ``error``."""
    commands = Group("probes")

    @commands.command("probe")
    def probe():
        raise error

    with pytest.raises(SystemExit) as left:
        commands.main(["probe"])
    return left.value.code


ERRORS = [
    MemoryError(),
    ImportError("libarrow.so: failed to map segment from shared object"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    RuntimeError("could not create a primitive"),
    EOFError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_where_the_address_space_is_limited_that_is_the_cause(error, monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB, GIB) if which == resource.RLIMIT_AS else (99, 99))
    assert fail(error) == 1
    note, line = [line for line in capsys.readouterr().err.splitlines() if line]
    cause = "the address space of this process is limited to 1.0 GiB (ulimit -v), of which"
    assert note.startswith(f"NOTE {cause}") and line.startswith("Error: ") and cause in line and "ulimit -u" not in line


def test_a_thread_that_openblas_cannot_start_is_no_ctrl_c(monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB, GIB))
    assert fail(KeyboardInterrupt()) == 130
    assert "or a library could start no thread: the address space of this" in capsys.readouterr().err


@pytest.mark.parametrize("addresses", [resource.RLIM_INFINITY, 8 * GIB])
def test_where_it_is_not_limited_it_is_not_named(addresses, monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (addresses if which == resource.RLIMIT_AS else 99, 99))
    assert fail(RuntimeError("can't start new thread")) == 1 and "ulimit -u" in capsys.readouterr().err
    with pytest.raises(EOFError):  # which is no Ctrl-D
        fail(EOFError())
    assert "ulimit" not in capsys.readouterr().err
