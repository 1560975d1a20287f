"""The data set, damaged or taken away while a training reads it; a disk and a clock that misbehave."""

import shutil

import pytest

from tests.faults import damages, syscall_faults, training


def truncate(tar, chance):
    with open(tar, "r+b") as file:
        file.truncate(chance.randrange(tar.stat().st_size))


def unlink(tar, chance):
    tar.unlink()


def overwrite(tar, chance):
    size = tar.stat().st_size
    with open(tar, "r+b") as file:
        file.write(chance.choice([bytes(size), chance.randbytes(size)]))


def replace(tar, chance):
    other = tar.with_suffix(".other")
    other.write_bytes(chance.randbytes(tar.stat().st_size))
    other.rename(tar)


DAMAGES = {"truncated": truncate, "deleted": unlink, "overwritten": overwrite, "replaced": replace}


BEFORE = [one for one in damages.DAMAGES if one.__name__ not in ("other_set", "link_to_other")]


@pytest.mark.promise(
    "a training refuses a damaged data set with one line, or has the losses that it has of a whole one",
    fault="any damage to any file before it starts",
    short=1,
    long=24,
)
def test_a_data_set_that_was_damaged_before_is_refused_or_does_not_matter(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        shards, run = shutil.copytree(sample_shards, tmp_path / f"shards-{number}"), tmp_path / str(number)
        split = shards / chance.choice(["train", "train", "val"])
        beside = shards / ("val" if split.name == "train" else "train")
        damage, files = BEFORE[(number + trials.first) % len(BEFORE)], sorted(split.iterdir())
        path = chance.choice(files)
        while not damage(path, chance, beside=beside):
            path = chance.choice(files)
        done = training.wait_for(training.start(training.command(shards, run)))
        what = f"{damage.__name__} of {split.name}/{path.name}"
        if done.code:
            assert str(shards) in done.error, (what, done.error)
        elif not damages.decodes_otherwise(split):
            training.require_same(run, short_run)


@pytest.mark.promise(
    "damaged data end a training with a line that names the shard, or do not matter; mended, it goes on with --resume",
    fault="a shard truncated, deleted, overwritten, replaced during a run",
    short=2,
    long=24,
)
def test_a_shard_that_is_damaged_during_a_run_is_named_or_does_not_matter(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        shards, run = shutil.copytree(sample_shards, tmp_path / f"shards-{number}"), tmp_path / str(number)
        split = chance.choice(["train", "train", "val"])
        tar = shards / split / f"{split}-000000.tar"
        damage = list(DAMAGES)[(number + trials.first) % len(DAMAGES)]
        words = training.command(shards, run)
        process = training.start(words)
        if training.reach(process, run, chance.randint(1, 3)):
            DAMAGES[damage](tar, chance)
        done = training.wait_for(process)
        if done.code == 0:
            training.require_same(run, short_run)
            continue
        assert tar.stem in done.error, (damage, done.error)
        shutil.copy(sample_shards / split / tar.name, tar)
        training.resume(words, run, short_run)


@pytest.mark.promise(
    "no hang: a disk that gives nothing is said to, and waited for", fault="a read that blocks", short=1, long=4
)
def test_a_disk_that_stands_still_is_said_to_and_the_run_goes_on_with_it(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        run, block = tmp_path / str(number), tmp_path / f"block-{number}"
        block.touch()
        shard = sample_shards / "train" / "train-000000.tar"
        hold = f"sh while [ -e {block} ]; do sleep 0.2; done"
        fault = syscall_faults.SyscallFault(tmp_path / "notes", shard, do=hold, at=chance.randint(4, 60), calls="read")
        process = training.start(
            training.command(sample_shards, run, "--timeout", 20),
            LD_PRELOAD=str(syscall_faults.build_library()),
            **fault.environment,
        )
        # On a busy machine another rank may say first that it waits for this one.
        told = next((line for line in process.stderr if "has waited" in line and "the data of" in line), "")
        block.unlink()
        done = training.wait_for(process)
        assert done.code == 0 and told, done.lines
        training.require_same(run, short_run)


@pytest.mark.promise("the clock changes nothing", fault="a clock that jumps between 1970 and 2106", short=1, long=3)
def test_a_clock_that_jumps_changes_no_number(trials, sample_shards, short_run, tmp_path):
    for number, _ in enumerate(trials):
        run = tmp_path / str(number)
        words = [word for word in training.command(sample_shards, run, "--log-every", 1) if word != "--quiet"]
        done = training.finish(words, LD_PRELOAD=str(syscall_faults.build_library()), EDGE_CLOCK="jump")
        steps = [line for line in done.lines if "ETA" in line]
        assert len(steps) == training.STEPS and not any("ETA -" in line for line in steps)
        training.require_same(run, short_run)
