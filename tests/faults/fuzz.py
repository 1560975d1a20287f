"""Parsers fed with damaged and hostile files: a right answer or an error of one line, in bounded time and memory.

Seeded mutation, or inputs that atheris finds by what they reach in our code (``--guided``); both in a process of their
own, whose death is noticed::

    python tests/faults/fuzz.py --executions 40000     # of each target that is quick, fewer of those that open much
    python tests/faults/fuzz.py --target manifest --guided --executions 200000

Checksums are made right again after the damage, as one who means harm would, so that what lies behind them is reached.
An input that breaks a promise is kept (``--keep``); ``--replay FILE`` runs a target on it. Each finished target is a
line in the log of trials (tests/faults/record.py).
"""

import argparse
import json
import mmap
import os
import random
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from tests.faults.mutate import damaged, damaged_json, deep  # noqa: E402
from tests.faults.record import note  # noqa: E402

SECONDS = 20  # of a core that one execution may take
SILENT_S = 300  # without an execution: the process hangs where Python cannot interrupt it, or torch is being loaded
SPACE, MOST_RSS = 6 << 30, 3 << 30  # address space and memory, more than at the start, that all executions may have
OURS = ["alexstream", "tomllib", "csv", "numpy.lib.format"]
COMPILED = [
    "alexstream.sharding.stats",
    "alexstream.sharding.images.resample",
    "alexstream.pipeline.transforms.normalize",
    "alexstream.pipeline.sampling.philox",
    "alexstream.pipeline.sampling.shuffle",
]
PROMISE = "a damaged or hostile file is refused in one line or read rightly"
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Progress:
    """Number of the target, executions, refusals: in a file that outlives the process that writes it."""

    def __init__(self, path):
        path.touch()
        os.truncate(path, 24)
        with path.open("r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 24)

    def read(self):
        return struct.unpack("3q", self.shared[:24])

    def write(self, *numbers):
        self.shared[:24] = struct.pack("3q", *numbers)


class TooLongError(BaseException):
    """An execution takes too long; no handler of expected errors catches it."""


class Executions:
    """Runs a target on one input after another, in this process."""

    def __init__(self, name, scratch, number=0, planned=0):
        from tests.faults.targets import TARGETS

        self.name, self.target, self.folder = name, TARGETS[name], scratch / f"files{number}"
        self.folder.mkdir()
        self.target.make(self.folder)
        self.path = self.folder / self.target.file
        self.whole = {one: one.read_bytes() for one in self.folder.rglob("*") if one.is_file()}
        self.others = [one for one in self.whole if one.name in ("manifest.json", "stats.json") or one == self.path]
        self.progress, self.number = Progress(scratch / "progress"), number
        self.planned, self.done, self.refused = planned, 0, 0  # libFuzzer ends the process after the last
        self.once(self.whole[self.path])  # loads what is loaded late
        if self.refused and name != "config.toml, report":
            raise AssertionError(f"{name}: the whole file is refused")
        self.done = self.refused = 0
        self.start_rss = rss()

    def once(self, data):
        """Run the target on a file of these bytes. Raises AssertionError for a broken promise."""
        from alexstream.core.errors import AlexstreamError

        self.path.write_bytes(data)
        try:
            self.target.mend(self.folder)
            self.target.run(self.folder)
        except AlexstreamError as error:
            if not str(error).isprintable() or not str(error):
                raise AssertionError(f"{self.name}: not one line: {error!r}") from error
            self.refused += 1
        except TooLongError as error:
            raise AssertionError(f"{self.name}: longer than {SECONDS} s") from error
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{self.name}: {type(error).__name__}: {error}") from error
        finally:
            for one in self.others:
                one.write_bytes(self.whole[one])
        self.done += 1
        if self.done % 16 == 0 or self.done < 16 or self.done == self.planned:
            self.account()

    def account(self):
        """Tell how far it is. Raises AssertionError if memory has grown too much."""
        used = rss()
        self.progress.write(self.number, self.done, self.refused)
        if used - getattr(self, "start_rss", used) > MOST_RSS:
            raise AssertionError(f"{self.name}: {used >> 20} MiB of memory")


def rss():
    """The most memory that this process ever had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def limit_space():
    """An execution that wants too much gets MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, resource.RLIM_INFINITY))


def change(executions, chance):
    """A damaged copy of the whole file."""
    whole = executions.whole[executions.path]
    if executions.target.structured and chance.random() < 0.8:
        text = json.dumps(damaged_json(json.loads(whole), chance)).encode()
        return deep(text, chance) if chance.random() < 0.02 else text
    if executions.target.change is not None and chance.random() < 0.9:
        return executions.target.change(whole, chance)
    return damaged(whole, chance)


def seeded(executions, count, seed):
    """The inputs of these seeds; the last is in the file that is damaged, whatever becomes of the process."""

    def too_long(*_):
        raise TooLongError

    signal.signal(signal.SIGPROF, too_long)
    last = executions.path.with_name("last-input")
    for number in range(seed, seed + count):
        data = change(executions, random.Random(f"{executions.name} {number}"))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            executions.once(data)
        except AssertionError:
            last.write_bytes(data)
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def guided(executions, count, seed, scratch):
    """Inputs that reach something new, by libFuzzer; ends the process."""
    import atheris

    corpus = scratch / "corpus"
    corpus.mkdir()
    whole = executions.whole[executions.path]
    (corpus / "whole").write_bytes(whole)
    for number in range(20):
        (corpus / str(number)).write_bytes(change(executions, random.Random(f"{executions.name} {number}")))

    def once(data):
        try:
            executions.once(data)
        except AssertionError as error:
            executions.path.with_name("last-input").write_bytes(data)
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(1)

    flags = [f"-runs={count}", f"-seed={seed + 1}", f"-timeout={SILENT_S}", "-rss_limit_mb=0", "-print_final_stats=0"]
    flags += [f"-max_len={max(4096, 2 * len(whole))}", f"-artifact_prefix={scratch}/", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], once)
    atheris.Fuzz()


def child(args):
    """In the process that may die: all executions of one target after another."""
    scratch = Path(args.scratch)
    if args.guided:
        import atheris

        with atheris.instrument_imports(include=OURS, exclude=COMPILED):
            executions = Executions(args.target[0], scratch, planned=args.executions)  # loads what it needs
    warnings.simplefilter("ignore")
    for number, name in enumerate(args.target):
        if not args.guided:
            executions = Executions(name, scratch, number, args.executions)
        if number == 0:
            limit_space()
        try:
            if args.replay:
                return executions.once(Path(args.replay).read_bytes())
            if args.guided:
                guided(executions, args.executions, args.seed, scratch)
            seeded(executions, args.executions, args.seed)
        except AssertionError as error:
            sys.exit(f"{error} (seed {args.seed + executions.done})")
        finally:
            executions.account()
    return None


def fuzz(names, executions, *, seed=0, with_guidance=False, keep=None, replay=None):
    """Run each target so often, in one process of their own.

    What was done of the last of them: (executions, refused, seconds, what broke).
    """
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="fuzz-") as scratch:
        progress = Progress(Path(scratch) / "progress")
        words = [sys.executable, __file__, "--child", "--scratch", scratch]
        words += [word for name in names for word in ("--target", name)]
        words += ["--executions", str(executions), "--seed", str(seed), *(["--guided"] if with_guidance else [])]
        words += ["--replay", replay] if replay else []
        start = time.monotonic()
        with (Path(scratch) / "said").open("w+b") as said:
            with subprocess.Popen(
                words, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"}
            ) as process:
                hung = wait(process, progress)
            said.seek(0)
            text = said.read().decode("utf-8", "replace").strip()
        number, done, refused = progress.read()
        broken = f"{names[number]}: hangs" if hung else reason(names[number], process.returncode, text)
        if not broken and not replay and (number, done) != (len(names) - 1, executions):
            broken = f"ended after {done} executions: {text[-300:]}"
        if broken and keep is not None:
            keep_input(Path(scratch), names[number], keep)
        return done, refused, time.monotonic() - start, broken


def reason(name, returncode, text):
    """Why a process ended that should not have; empty if it ended well."""
    if returncode == 0:
        return ""
    if returncode < 0:
        return f"{name}: killed by {signal.Signals(-returncode).name} {text[-1000:]}".strip()
    return next((line for line in reversed(text.splitlines()) if line), f"exit code {returncode}")[-600:]


def wait(process, progress):
    """Wait for a process; whether it did nothing for so long that it was killed."""
    last, since = None, time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        done = progress.read()
        if done != last:
            last, since = done, time.monotonic()
        if time.monotonic() - since > SILENT_S:
            process.kill()
            return True
    return False


def keep_input(scratch, name, keep):
    """Copy what was read last; of a process that died it lies in the place of the whole file."""
    from tests.faults.targets import TARGETS

    keep.mkdir(parents=True, exist_ok=True)
    found = [*scratch.rglob("last-input"), *scratch.glob("timeout-*")]
    found = found or [path for path in scratch.glob(f"files*/{TARGETS[name].file}")]
    stem = name.replace(" ", "-").replace(",", "").replace("/", "-").replace("'", "")
    for number, path in enumerate(found):
        shutil.copy(path, keep / f"{stem}-{time.time_ns()}-{number}")


def log(name, done, broken, with_guidance, seed):
    """A line in the log of trials."""
    kind = "coverage-guided" if with_guidance else "mutation"
    words = ["python", "tests/faults/fuzz.py", "--target", name, *(["--guided"] if with_guidance else [])]
    command = shlex.join([*words, "--executions", str(done)])
    note(PROMISE, f"{kind}: {name}", done, f"BROKEN: {broken}" if broken else "kept", command, seed=seed)


def names():
    """Of all targets."""
    from tests.faults.targets import TARGETS

    return list(TARGETS)


def afforded(name, executions):
    """How many executions of a target take about as long as so many of a quick one; at least 20."""
    from tests.faults.targets import TARGETS

    return max(min(20, executions), executions // TARGETS[name].cost)


def parsed():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="[default: all]")
    parser.add_argument("--executions", type=int, default=40_000, help="of each quick target; all: over a million")
    parser.add_argument("--guided", action="store_true", help="by atheris, from what inputs reach")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that break a promise")
    parser.add_argument("--replay", help="an input to run a target on, once")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Fuzz one target after another; exit code 1 if one broke a promise."""
    args = parsed()
    if args.child:
        return child(args)
    failed = False
    for name in args.target or names():
        executions = args.executions if args.target else afforded(name, args.executions)
        done, refused, seconds, broken = fuzz(
            [name], executions, seed=args.seed, with_guidance=args.guided, keep=args.keep, replay=args.replay
        )
        rate = done / max(seconds, 1e-9)
        print(f"{name:32} {done:9,} executions, {refused:9,} refused, {rate:7,.0f} a second {broken}", flush=True)
        failed = failed or bool(broken)
        if not args.replay:
            log(name, done, broken, args.guided, args.seed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
