"""Plants the errors of the list, one at a time, in a copy of the project, and runs the tests that must notice them.

Usage: python tests/mutants/run.py [--jobs 2] [--resume] [WORD ...]; the words choose entries by the start of an id or
a file. Numpy, torch, DALI and pytest are imported once; a process is forked from there for each entry, in which the
project's own modules are imported for the first time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import types
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from planted import ROOT, Planted, load, stale

WANTED = 0.95  # score below which the run fails
NO_TESTS = 5  # pytest's exit code where there was nothing to run
SPARE_S, TIMES = 90.0, 5.0  # a run may take this many seconds, and this many times as long as without an error
LOOK_S = 0.05
SLOW = ("tests/faults/", "tests/test_", "tests/report/test_report.py", "tests/trainer/test_columns.py")
WARM = (
    "numpy", "numba", "scipy.stats", "PIL.Image", "pyarrow.parquet", "pyarrow.compute", "simplejpeg", "torch",
    "torch.distributed", "torch.nn.parallel", "nvidia.dali.fn", "nvidia.dali.plugin.numba", "click",
    "hypothesis.strategies", "pytest",
)  # fmt: skip
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "dist", "demo-out", "*.egg-info", "runs", ".*_cache")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
ALREADY_IMPORTED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # plugins, whose asserts matter to nobody here
KILLED, LATE, LIVED = "killed", "killed by time limit", "lived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of tests: with an error planted, or (``planted`` None) without."""

    tests: tuple[str, ...]
    limit_s: float
    planted: Planted | None = None


class Tree:
    """A copy of the project, in which at most one error is planted at a time."""

    def __init__(self, folder: Path) -> None:
        """Copy the project, with what was compiled, to ``folder/tree``."""
        self.folder, self.root = folder, folder / "tree"
        shutil.copytree(ROOT, self.root, symlinks=True, ignore=LEFT_OUT)
        self.log = folder / "log"
        self._count = 0
        self._before: tuple[Path, bytes, os.stat_result] | None = None

    def plant(self, one: Planted) -> None:
        """Write the error into its file, whose time no other version of it has had: caches go by time and size."""
        path = self.root / one.file
        self._before = path, path.read_bytes(), path.stat()
        path.write_text(one.applied(path.read_text("utf-8")), "utf-8")
        self._count += 1
        stamp = self._before[2].st_mtime_ns + self._count * 2_000_000_000
        os.utime(path, ns=(stamp, stamp))

    def restore(self) -> None:
        """Bring back the file as it was."""
        if self._before is not None:
            path, content, was = self._before
            path.write_bytes(content)
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
            self._before = None


class Run:
    """A task under way in a tree, in a process group of its own."""

    def __init__(self, task: Task, tree: Tree) -> None:
        """Plant the error and fork."""
        self.task, self.tree = task, tree
        if task.planted is not None:
            tree.plant(task.planted)
        self._start = time.monotonic()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _test(task.tests, tree)

    def result(self) -> dict[str, Any] | None:
        """What became of it, once it has ended; None until then."""
        seconds = time.monotonic() - self._start
        pid, status, used = os.wait4(self._pid, os.WNOHANG)
        late = pid == 0 and seconds > self.task.limit_s
        if pid == 0 and not late:
            return None
        self.end(waited=pid != 0)
        code = -1 if late else os.waitstatus_to_exitcode(status)
        said = self.tree.log.read_text("utf-8", "replace")
        by = FAILED.search(said)
        return {
            "outcome": LATE if late else LIVED if code in (0, NO_TESTS) else KILLED,
            "by": by[1] if by else "" if code in (0, -1) else f"exit code {code}",
            "seconds": round(seconds, 1),
            "cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "said": said,
        }

    def end(self, *, waited: bool = False) -> None:
        """Kill what is left of it and restore the tree."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)  # its workers and ranks too
        if not waited:
            os.waitpid(self._pid, 0)
        self.tree.restore()


def _test(tests: Sequence[str], tree: Tree) -> None:
    """In the forked process: run the tests in the tree and leave, whatever happens."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        log = os.open(tree.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(tree.root)
        sys.path[0] = os.environ["PYTHONPATH"] = str(tree.root)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False  # bytecode of what is not changed is kept: the tree is this run's own
        sys.modules["__main__"] = types.ModuleType("__main__")  # which processes that are spawned would run again
        pytest = importlib.import_module("pytest")
        # Hypothesis' own profile for unattended runs: the same examples each time, and no limit on their time.
        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", "--hypothesis-profile=ci", *ALREADY_IMPORTED]
        code = int(pytest.main([*options, f"--basetemp={tree.folder / 't'}", *tests]))
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"\n{error!r}\n".encode())
        code = 3
    os._exit(code)


def run_all(tasks: Iterator[Task], trees: Sequence[Tree]) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Run tasks, one in each tree at a time; yields each with its result as it ends."""
    free, under_way = list(trees), list[Run]()
    try:
        while True:
            while free and (task := next(tasks, None)) is not None:
                under_way.append(Run(task, free.pop()))
            if not under_way:
                return
            time.sleep(LOOK_S)
            for run in list(under_way):
                if (result := run.result()) is not None:
                    under_way.remove(run)
                    free.append(run.tree)
                    yield run.task, result
    finally:
        for run in under_way:
            run.end()


class Results:
    """What was found so far, a JSON line each: seconds of tests without an error, outcomes of entries."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Read what an earlier run found, if it is to be continued; what lived then is tried again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("utf-8").splitlines() if resume and path.is_file() else []
        rows = [row for row in map(json.loads, lines) if row.get("outcome") != LIVED]
        self.found = {row["key"]: row for row in rows}
        self._file = path.open("a" if lines else "w", encoding="utf-8")

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a result."""
        self.found[key] = {"key": key, **row}
        self._file.write(json.dumps(self.found[key]) + "\n")
        self._file.flush()


def key_of(one: Planted) -> str:
    """Changes with the error, so that a continued run tries a changed one again."""
    return f"{one.id} {hashlib.sha256(repr((one.file, one.old, one.new)).encode()).hexdigest()[:12]}"


def measure(test: str, results: Results, trees: Sequence[Tree]) -> bool:
    """Run a test without an error, unless that was done; False if it fails then, and can tell nothing."""
    if test in results.found:
        return True
    for _, result in run_all(iter([Task(tests=(test,), limit_s=1800.0)]), trees):
        if result["outcome"] != LIVED or " passed" not in result["said"]:
            print(f"{result['said'][-3000:]}\n{test} fails without any planted error: {result['by']}", flush=True)
            return False
        results.add(test, {"seconds": result["seconds"]})
        print(f"without an error: {test}, {result['seconds']} s", flush=True)
    return True


def try_all(planted: Sequence[Planted], results: Results, trees: Sequence[Tree]) -> list[str]:
    """Run every entry that has no result yet: all against the first of their tests, what is left against the next.

    Gives the tests that fail without an error; entries that came to one of these have no result.
    """
    broken: list[str] = []
    left = [one for one in planted if key_of(one) not in results.found]
    depth = 0
    while left:
        left.sort(key=lambda one: (_usual_s(one.tests[depth], results), one.tests[depth]))
        groups = [(test, list(same)) for test, same in groupby(left, key=lambda one: one.tests[depth])]
        left = []
        for test, group in groups:
            if test not in broken and measure(test, results, trees):
                left += _try_group(group, depth, results, trees)
            else:
                broken = list(dict.fromkeys([*broken, test]))
        depth += 1
    return broken


def _usual_s(test: str, results: Results) -> float:
    """What a test takes without an error; a guess, by where it is, if it was not measured yet."""
    guess = 300.0 if test.startswith(SLOW) else 20.0
    return float(results.found.get(test, {"seconds": guess})["seconds"])


def _try_group(group: Sequence[Planted], depth: int, results: Results, trees: Sequence[Tree]) -> list[Planted]:
    """Run entries against one of their tests; gives those that it does not notice and that have another one."""
    limit_s = SPARE_S + TIMES * _usual_s(group[0].tests[depth], results)
    tasks = (Task(tests=(one.tests[depth],), limit_s=limit_s, planted=one) for one in group)
    left = []
    for task, result in run_all(tasks, trees):
        one = task.planted
        assert one is not None
        del result["said"]
        lives_on = result["outcome"] == LIVED and depth + 1 < len(one.tests)
        if lives_on:
            left.append(one)
        else:
            results.add(key_of(one), {"id": one.id, **result})
        said = f"passes {task.tests[0]}" if lives_on else f"{result['outcome']} {result['by']}".strip()
        print(f"{one.id}: {said} ({result['seconds']} s)", flush=True)
    return left


def report(planted: Sequence[Planted], results: Results) -> float:
    """Print the score by module and what lives, as Markdown; returns the score of all that are not equivalent."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])  # all, killed, late, equivalent, lived
    lived, noticed = [], []
    for one in planted:
        outcome = results.found.get(key_of(one), {}).get("outcome", "")
        killed = outcome in (KILLED, LATE)
        for row in (rows[one.module], rows["**all**"]):
            counts = [1, killed and not one.equivalent, outcome == LATE and not one.equivalent, bool(one.equivalent)]
            row[:] = [a + b for a, b in zip(row, [*counts, outcome == LIVED and not one.equivalent], strict=True)]
        lived += [one] if outcome == LIVED and not one.equivalent else []
        noticed += [one] if killed and one.equivalent else []
    print("\n| module | planted | noticed (of these by time limit) | equivalent | not noticed | score |")
    print("|---|---|---|---|---|---|")
    for module in [*sorted(name for name in rows if name != "**all**"), "**all**"]:
        count, killed, late, equivalent, left = rows[module]
        times = f" ({late})" if late else ""
        print(f"| {module} | {count} | {killed}{times} | {equivalent} | {left} | {_score(killed, left):.0%} |")
    for one in lived:
        print(f"\nnot noticed: {one.id}, {one.file}: {one.old!r} -> {one.new!r}")
    for one in noticed:
        print(f"\nnoticed, though it is listed as equivalent: {one.id} ({results.found[key_of(one)]['by']})")
    return _score(rows["**all**"][1], rows["**all**"][4])


def _score(killed: int, lived: int) -> float:
    return killed / (killed + lived) if killed + lived else 1.0


def warm_up() -> None:
    """Import what every run of tests imports, but nothing of the project."""
    for name in WARM:
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()


def main() -> int:
    """Run what the command line chooses; 0 if the score is high enough, 1 if not, 2 if that cannot be told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="entries by the start of an id or of a file [default: all]")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many run at once")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.jsonl", help="where results are kept")
    parser.add_argument("--resume", action="store_true", help="go on from the results that are there")
    parser.add_argument("--equivalent", action="store_true", help="run the equivalent ones too")
    parser.add_argument("--check", action="store_true", help="only list the entries that no longer fit the code")
    asked = parser.parse_args()
    planted = load()
    if wrong := stale(planted):
        print("\n".join([*wrong, f"{len(wrong)} of {len(planted)} entries are stale"]))
        return 2
    if asked.check:
        print(f"{len(planted)} entries fit the code, {sum(not one.equivalent for one in planted)} not equivalent")
        return 0
    words = tuple(asked.words) or ("",)
    chosen = [one for one in planted if one.id.startswith(words) or one.file.startswith(words)]
    todo = [one for one in chosen if asked.equivalent or not one.equivalent]
    warm_up()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    results = Results(asked.results, resume=asked.resume)
    with tempfile.TemporaryDirectory(prefix="m", ignore_cleanup_errors=True) as folder:
        broken = try_all(todo, results, [Tree(Path(folder) / str(number)) for number in range(asked.jobs)])
    score = report(chosen, results)
    print(f"\nscore {score:.1%}, wanted {WANTED:.0%}")
    if broken:
        print(f"no score yet: {', '.join(broken)} fail without any planted error; mend that and go on with --resume")
        return 2
    return 0 if score >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
