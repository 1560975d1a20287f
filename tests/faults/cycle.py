"""One cycle of the soak: images → data set → checks → training → evaluation → report, and a twin that is not disturbed.

Every step is done until it ends well, and then compared with the twin's. What was done to it is counted in ``tally``.
"""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.trainer import checkpoint as checkpoints
from tests.faults.disturbed import SIGNALS, Broken, signalled
from tests.support.comparisons import file_hashes, losses_of

CLASSES = ("a", "b", "c", "d")
ENCODINGS = ("jpeg", "raw", "keep")
WIDTHS = (1.0, 0.125, 0.125, 0.125)  # of the network: most cycles train a small one


@dataclass
class Tally:
    """How often each kind of fault was tried, and what broke."""

    faults: Counter = field(default_factory=Counter)
    broken: list = field(default_factory=list)


def require(truth, words):
    """Raises Broken unless something is so."""
    if not truth:
        raise Broken(words)


class Cycle:
    """A random subset of ``images`` through everything, in ``folder``."""

    def __init__(self, runner, images, folder, chance, tally):
        self.is_quick = runner.stem is not None
        self.runner, self.folder, self.chance, self.tally = runner, folder, chance, tally
        self.source, self.data, self.twin = folder / "images", folder / "data", folder / "twin"
        self.encoding = chance.choice(ENCODINGS)
        self.width = WIDTHS[-1] if self.is_quick else chance.choice(WIDTHS)
        self._draw(images)

    def run(self):
        """All of it. Raises Broken."""
        self._convert()
        self._damaged_source()
        self._look()
        self._damaged_data()
        self._train()
        self._evaluate()
        for held in (self.data / "train", self.folder / "run"):
            require(is_free(held), f"{held} is still locked")

    def _draw(self, images):
        """A hundred images or more, three hundred at most; classes are given out, since a folder may have any.

        Of a quick cycle 40: five steps of training.
        """
        chosen = self.chance.sample(images, min(len(images), 40 if self.is_quick else self.chance.randint(100, 300)))
        for number, path in enumerate(chosen):
            split = "val" if number % 8 == 7 else "train"
            place = self.source / split / CLASSES[number // 8 % 4] / f"{number:04d}{path.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)

    def _disturbed(self, *words, longest_s):
        """Run a command until it ends well; up to two of its tries are disturbed.

        In a quick cycle up to one, and of a training always one.
        """
        tries = (int(words[0] == "train"), 1) if self.is_quick else (0, 2)
        longest_s *= 0.3 if self.is_quick else 1.0
        for _ in range(self.chance.randint(*tries)):
            name = self.chance.choice(SIGNALS)
            disturb = signalled(self.runner, self.chance, name, longest_s)
            ended = self.runner.run(*words, disturb=disturb)
            self.tally.faults[f"{name} during {words[0]}"] += disturb.came
            if ended.code == 0:
                return ended
            require(disturb.came and name != "SIGSTOP", f"{ended.words}: {ended.code} {ended.stderr[-2000:]}")
            ended.require_one_line()
            words = self._again(words)
        return self.runner.run(*words).require_success()

    def _again(self, words):
        """What is typed after a stop: a training is resumed if it saved anything."""
        saved = words[0] == "train" and list((self.folder / "run").glob(checkpoints.FILE_GLOB))
        return (*words, "--resume") if saved and "--resume" not in words else words

    def _convert(self):
        def words(out):
            return "shard", "--src", self.source, "--out", out, "--encode", self.encoding, "--workers", 2, "--quiet"

        begun = time.monotonic()
        self.runner.run(*words(self.twin)).require_success()
        self._disturbed(*words(self.data), longest_s=time.monotonic() - begun)
        require(file_hashes(self.data) == file_hashes(self.twin), "a disturbed conversion differs from its twin")

    def _damaged_source(self):
        """A source file with a flipped bit or cut short is refused, or its own sample alone is another one."""
        if self.chance.random() < 0.5:
            return
        path = self.chance.choice(sorted((self.source / "train").glob("*/*")))
        before, out = path.read_bytes(), self.folder / "other"
        what = self._damage(path)
        words = ("shard", "--src", self.source, "--out", out, "--encode", self.encoding, "--quiet")
        self.runner.run(*words).require_success()
        self.tally.faults[f"{what} in a source file"] += 1
        mine, theirs = stored(out / "train"), stored(self.twin / "train")
        gone, name = set(theirs) - set(mine), f"{path.parent.name}/{path.name}"
        refused = (out / "train" / layout.QUARANTINE).read_text()
        require(set(mine) <= set(theirs) and all(name in source for source in gone), f"{name}: lost {gone}")
        require(not gone or name in refused, f"{name} is neither written nor refused")
        others = [source for source in mine if mine[source] != theirs[source] and name not in source]
        require(not others, f"{name} was damaged, and {others} differ")
        path.write_bytes(before)
        shutil.rmtree(out)

    def _look(self):
        """Commands that only read: they say the same, whatever happened to them."""
        verify = self.runner.run("verify", self.twin, "--json", "--quiet").require_success()
        mine = self._disturbed("verify", self.data, "--json", "--quiet", longest_s=6)
        require(untold(mine.stdout, self.data) == untold(verify.stdout, self.twin), "verify differs from its twin")
        info = self.runner.run("info", self.data, "--json").require_success()
        require(len(untold(info.stdout, self.data)) == 2, f"info says of two splits: {info.stdout}")
        stats = [self._disturbed("stats", place, "--json", "--quiet", longest_s=6) for place in (self.data, self.twin)]
        require(
            untold(stats[0].stdout, self.data) == untold(stats[1].stdout, self.twin), "stats differ from the twin's"
        )
        picture = self.folder / "preview.png"
        self._disturbed("preview", self.data, "--count", 8, "--out", picture, longest_s=6)
        require(picture.stat().st_size > 1000, "preview drew nothing")

    def _damage(self, path):
        """Flip a bit or cut a file short; says which."""
        data = bytearray(path.read_bytes())
        if self.chance.random() < 0.5:
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            what = "a flipped bit"
        else:
            del data[self.chance.randrange(len(data)) :]
            what = "a truncation"
        path.write_bytes(data)
        return what

    def _damaged_data(self):
        """verify names a damaged file; brought back from a copy, the data set is intact."""
        path = self.chance.choice([p for p in sorted(self.data.glob("*/*")) if p.is_file() and p.stat().st_size])
        what = self._damage(path)
        self.tally.faults[f"{what} in a data set"] += 1
        ended = self.runner.run("verify", self.data, "--quiet")
        named = path.name in ended.stdout + ended.stderr
        require(ended.code == 1 and named, f"verify does not name {path}: {ended.code} {ended.stdout} {ended.stderr}")
        shutil.copyfile(self.twin / path.relative_to(self.data), path)
        self.runner.run("verify", self.data, "--quiet").require_success()

    def _training(self, run):
        batch = 8 if self.is_quick else 32
        words = ("train", "--data", self.data, "--run", run, "--device", "cpu", "--batch-size", batch, "--epochs", 1)
        return (*words, "--checkpoint-every", 2, "--timeout", 120, "--width", self.width, "--quiet")

    def _train(self):
        run, twin = self.folder / "run", self.folder / "twin-run"
        begun = time.monotonic()
        self.runner.run(*self._training(twin)).require_success()
        took_s = time.monotonic() - begun
        if self.chance.random() < 0.3:
            self._full_disk(run)
        self._disturbed(*self._again(self._training(run)), longest_s=took_s)
        self._same_run(run, twin)
        if self.chance.random() < 0.5:
            self._damaged_checkpoint(run, twin)

    def _full_disk(self, run):
        """A disk with room for one checkpoint; what it holds goes to a larger one, and the run goes on there."""
        disk = self.folder / "disk"
        disk.mkdir()
        size = f"size={600 * self.width**2 + 2:.0f}m"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True).returncode:
            return
        try:
            ended = self.runner.run(*self._training(disk / "run"))
            self.tally.faults["a full disk during train"] += 1
            require(ended.code == 1 and "No space left" in ended.stderr, f"a full disk: {ended.code} {ended.stderr}")
            ended.require_one_line()
            shutil.copytree(disk / "run", run)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)

    def _damaged_checkpoint(self, run, twin):
        """The newest one has a flipped bit or is cut short: --resume goes on from the one before, to the same end."""
        newest = checkpoints.find_latest(run)
        what = self._damage(newest)
        self.tally.faults[f"{what} in the newest checkpoint"] += 1
        ended = self.runner.run("evaluate", "--data", self.data, "--checkpoint", run, "--quiet")
        require(ended.code == 1, f"evaluate took a checkpoint with {what}")
        ended.require_one_line()
        ended = self.runner.run(*self._training(run), "--resume").require_success()
        require("continuing from" in ended.stderr and newest.name in ended.stderr, f"no word of {what}: {ended.stderr}")
        self._same_run(run, twin)

    def _same_run(self, run, twin):
        require(losses_of(run) == losses_of(twin), "a disturbed training has other losses than its twin")
        mine, theirs = checkpoints.load_checkpoint(run), checkpoints.load_checkpoint(twin)
        same = mine.step == theirs.step and mine.errors == theirs.errors
        for one, other in ((mine.parameters, theirs.parameters), (mine.velocity, theirs.velocity)):
            same = same and all(torch.equal(one[name], other[name]) for name in theirs.parameters)
        require(same, "a disturbed training ends with another checkpoint than its twin")
        require(not list(run.glob("*.tmp")), f"half-written files in {run}")

    def _evaluate(self):
        scores = []
        for run in (self.folder / "run", self.folder / "twin-run"):
            words = ("evaluate", "--data", self.data, "--checkpoint", run, "--json", "--quiet")
            scores.append(json.loads(self._disturbed(*words, longest_s=8).stdout))
            scores[-1] = {name: scores[-1][name] for name in ("num_images", "loss", "top1", "top5")}
        require(scores[0] == scores[1], f"evaluate differs from its twin: {scores}")
        page = self.folder / "report.html"
        words = ("report", self.folder / "run", "--data", self.data, "--out", page, "--quiet")
        words += ("--neighbours", 0) if self.is_quick else ()
        self._disturbed(*words, longest_s=15)
        require(page.stat().st_size > 10_000, "report wrote nothing")


def stored(split):
    """sha256 of what is stored of each source file."""
    rows = load_catalog(split, load_manifest(split), ("source", "stored_sha256"))
    return dict(zip(map(str, rows["source"]), map(str, rows["stored_sha256"]), strict=True))


def untold(text, folder):
    """What a command said, but for where its data set lies and how long it took."""
    text, rows = text.replace(str(folder), "").strip(), []
    while text:
        row, end = json.JSONDecoder().raw_decode(text)
        rows.append({name: value for name, value in row.items() if not name.endswith("_s")})
        text = text[end:].strip()
    return rows


def is_free(folder):
    """Whether nobody holds a folder's lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def images_of(folder):
    """All image files of a folder."""
    endings = (".jpg", ".jpeg", ".png", ".webp")
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in endings and path.is_file())
