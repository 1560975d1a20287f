"""Hours of everything under random faults: does anything get lost, wrong, stuck or left behind?

Cycles of shard, verify, info, stats, preview, train on two ranks, evaluate and report, each on other images of a
folder, with faults drawn from a seed: signals to any process, flipped bits and truncations of sources, data sets and
checkpoints, full disks. Every cycle is compared with a twin that nothing disturbs, to the bit; then the machine is
looked over for processes, temporary files, shared memory and locks. Meanwhile one process streams on, and must not
grow.

Examples::

    python tests/faults/soak.py --minutes 60 --images shared/data --work /scratch/soak
    python tests/faults/soak.py --cycles 1 --images demo-out/images --work /tmp/soak --seed 7 --json soak.json

With the right to do so (root), it gives itself a /dev/shm of its own, so that what others do there does not count. With
``ALEXSTREAM_TRIAL_LOG`` the outcome is appended to that file (tests/faults/record.py); ``--report`` writes
benchmarks/results/soak_cpu…_DATE.md. Exit code 1 if a promise was broken.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
import traceback
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from machine import describe, result_path

from tests.faults import record
from tests.faults.cycle import Cycle, Tally, images_of
from tests.faults.disturbed import Broken, Runner

OWN = "ALEXSTREAM_SOAK_OWN_MOUNTS"
WARM_UP_S, ENOUGH_ROWS = 60.0, 30  # of a quarter: fewer see threads that come and go as the stream is opened
GROWTH_MIB, GROWTH_COUNT = 24.0, 2
PAUSE_S = {False: 0.05, True: 0.5}  # between the batches of the stream beside it, of a quick soak
COMMAND = "python tests/faults/soak.py --minutes {minutes:g} --images IMAGES --work WORK --seed {seed}"


class Endless:
    """The process that streams during the whole soak."""

    def __init__(self, data, work, pause_s):
        self.log = work / "endless.jsonl"
        command = [sys.executable, str(ROOT / "tests/faults/stream_soak.py"), str(data), str(pause_s)]
        with open(self.log, "w") as out, open(work / "endless.err", "w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)
        self.errors = work / "endless.err"

    def rows(self):
        """What it said so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def end(self):
        """End it; what it said."""
        alive = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        return alive, self.rows()


def growth(rows):
    """What the stream holds more of in its last quarter than in the first after the warm-up; None: too short to say."""
    steady = [row for row in rows if row["s"] > WARM_UP_S]
    quarter = len(steady) // 4
    if quarter < ENOUGH_ROWS:
        return None
    first, last = steady[:quarter], steady[-quarter:]
    return {
        name: statistics.median(row[name] for row in last) - statistics.median(row[name] for row in first)
        for name in ("mib", "files", "threads")
    }


class Soak:
    """Cycles until the time is over, and what came of them."""

    def __init__(self, args):
        self.args, self.tally, self.cycles = args, Tally(), 0
        self.images = images_of(args.images)
        self.work = args.work / "soak"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.runner = Runner(self.work, uuid.uuid4().hex, quick=args.quick)
        self.begun = time.monotonic()
        self.rows, self.grown = [], None

    def run(self):
        """All cycles."""
        endless, ended = Endless(self._data_to_stream(), self.work, PAUSE_S[self.args.quick]), threading.Event()
        threading.Thread(target=self._say_each_minute, args=(ended,), daemon=True).start()
        try:
            while self._goes_on():
                self._cycle(self.cycles)
                self.cycles += 1
        finally:
            ended.set()
            alive, self.rows = endless.end()
        if not alive:
            self._broke("the stream ended: " + endless.errors.read_text()[-2000:])
        self.grown = growth(self.rows)
        limits = {"mib": GROWTH_MIB, "files": GROWTH_COUNT, "threads": GROWTH_COUNT}
        for name, limit in limits.items():
            if self.grown and self.grown[name] > limit:
                self._broke(f"the stream grew: {self.grown[name]:+.1f} {name}")

    def _goes_on(self):
        if self.args.cycles:
            return self.cycles < self.args.cycles
        return time.monotonic() - self.begun < 60 * self.args.minutes

    def _data_to_stream(self):
        """A data set of a hundred images, that no cycle touches."""
        source, out = self.work / "streamed" / "images", self.work / "streamed" / "data"
        chosen = random.Random(self.args.seed).sample(self.images, min(100, len(self.images)))
        for number, path in enumerate(chosen):
            (source / str(number % 2)).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / str(number % 2) / f"{number}{path.suffix}")
        self.runner.run("shard", "--src", source, "--out", out, "--quiet").require_success()
        return out

    def _cycle(self, number):
        folder = self.work / f"cycle-{number}"
        chance = random.Random(f"{self.args.seed} {number}")
        try:
            Cycle(self.runner, self.images, folder, chance, self.tally).run()
            shutil.rmtree(folder)
        except Broken as error:
            self._broke(f"cycle {number}: {error}")  # its folder stays
        except Exception:
            self._broke(f"cycle {number}, which could not be judged: {traceback.format_exc()}")
        if left := self.runner.left_behind():
            self._broke(f"cycle {number} left behind: {', '.join(left)}")

    def _say_each_minute(self, ended):
        while not ended.wait(60):
            say(
                f"{(time.monotonic() - self.begun) / 60:.0f} min: {self.cycles} cycles, "
                f"{sum(self.tally.faults.values())} faults, {len(self.tally.broken)} broken"
            )

    def _broke(self, words):
        self.tally.broken.append(words)
        say(f"BROKEN: {words}")


def say(text):
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


PROMISES = {
    "nothing lost, nothing wrong: data set, losses and last checkpoint of an undisturbed twin": ("differs", "another"),
    "no hang": ("hangs",),
    "nothing left behind or grown": ("left behind", "grew", "locked"),
}


def as_json(soak):
    """All that is known, for a machine."""
    return {
        "cycles": soak.cycles,
        "hours": round((time.monotonic() - soak.begun) / 3600, 3),
        "seed": soak.args.seed,
        "faults": dict(sorted(soak.tally.faults.items())),
        "broken": soak.tally.broken,
        "stream": soak.rows[:: max(1, len(soak.rows) // 200)],
        "growth": soak.grown,
    }


def note(soak, command):
    """A line in the log of trials for each promise; what fits no other counts as wrong."""
    left = list(soak.tally.broken)
    names = list(PROMISES)
    for promise in [*names[1:], names[0]]:
        mine = [words for words in left if promise == names[0] or any(word in words for word in PROMISES[promise])]
        left = [words for words in left if words not in mine]
        outcome = "BROKEN: " + "; ".join(words.splitlines()[0] for words in mine) if mine else "kept"
        faults = f"{len(soak.tally.faults)} kinds of faults at random, {soak.cycles} cycles"
        record.note(promise, faults, sum(soak.tally.faults.values()), outcome, command)


def chart(rows, width=60, height=8):
    """Memory over time, in characters."""
    values = [row["mib"] for row in rows][:: max(1, len(rows) // width)]
    top = max(values)
    lines = [
        "".join("█" if value > top * (height - 1 - line) / height else " " for value in values)
        for line in range(height)
    ]
    return [f"{top * (height - i) / height:6.0f} MiB |{line}" for i, line in enumerate(lines)]


def report(soak, command):
    """The Markdown page."""
    seen = as_json(soak)
    lines = [
        f"# {seen['hours']:.2f} hours of everything under random faults",
        "",
        f"`{command}`",
        "",
        describe(),
        "",
        f"{soak.cycles} cycles, {sum(seen['faults'].values())} faults, {len(seen['broken'])} promises broken.",
        "",
        "| fault | times |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in seen["faults"].items()),
        "",
        *(f"- BROKEN: {words.splitlines()[0]}" for words in seen["broken"]),
    ]
    if rows := soak.rows:
        memory = [row["mib"] for row in rows]
        lines += [
            "",
            f"The stream beside it: {rows[-1]['batches']:,} batches, opened {rows[-1]['opened']} times. First, last "
            f"and most: {memory[0]:.1f}, {memory[-1]:.1f}, {max(memory):.1f} MiB; open files {rows[0]['files']}, "
            f"{rows[-1]['files']}, {max(row['files'] for row in rows)}; threads {rows[0]['threads']}, "
            f"{rows[-1]['threads']}, {max(row['threads'] for row in rows)}. After the warm-up, last quarter − first: "
            f"{soak.grown or 'too short to say'}.",
            "",
            "```",
            *chart(rows),
            "```",
        ]
    return "\n".join(lines) + "\n"


def with_own_mounts():
    """Run this program again with a /dev/shm of its own, where that is allowed; what is mounted ends with it."""
    if OWN in os.environ or os.geteuid():
        return
    shell = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", shell, "sh", sys.executable, *sys.argv]
    if subprocess.run([*command[:4], "true"], capture_output=True).returncode == 0:
        os.environ[OWN] = "1"
        os.execvp(command[0], command)


def main():
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="cycles begin until then")
    parser.add_argument("--cycles", type=int, default=0, help="as many cycles, however long they take")
    parser.add_argument("--quick", action="store_true", help="small cycles, whose commands are forked: for a test")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what it makes: some GB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write what is known here")
    parser.add_argument("--report", action="store_true", help="write a page into benchmarks/results")
    args = parser.parse_args()
    with_own_mounts()
    soak = Soak(args)
    if not soak.images:
        parser.error(f"--images {args.images}: no images there")
    soak.run()
    command = COMMAND.format(minutes=args.minutes, seed=args.seed)
    note(soak, command)
    if soak.runner.stem:
        soak.runner.stem.close()
    if args.json:
        args.json.write_text(json.dumps(as_json(soak), indent=1) + "\n")
    if args.report:
        result_path("soak").write_text(report(soak, command))
    print(report(soak, command))
    sys.exit(1 if soak.tally.broken else 0)


if __name__ == "__main__":
    main()
