"""Checkpoints that are no longer what was written: noticed, named, passed over; nothing is deleted."""

import os
import shutil

import pytest
import torch
from click.testing import CliRunner

from alexstream.commands.main import main
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.run_setup import RunOptions, prepare_run
from tests.faults import save_in_child, training

NEWEST = "checkpoint-00000003.pt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(folder, save_in_child.state(step), keep=3)
    return folder


def flip(data, chance):
    for _ in range(chance.choice([1, 1, 1, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def zero(data, chance):
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.randrange(1, 4096))
    data[begin:end] = bytes(end - begin)


def cut(data, chance):
    del data[chance.randrange(len(data)) :]


def grow(data, chance):
    data += chance.randbytes(chance.randrange(1, 200))


def garble(data, chance):
    data[:] = chance.randbytes(len(data))


DAMAGES = {"flipped bits": flip, "zeros": zero, "truncation": cut, "bytes behind the end": grow, "noise": garble}


def damaged(path, damage, chance):
    """Damage a file; whether it differs."""
    before = path.read_bytes()
    data = bytearray(before)
    damage(data, chance)
    path.write_bytes(data)
    return bytes(data) != before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.promise(
    "a damaged checkpoint is never taken for a good one: --resume goes on from the one before, and says so",
    fault="{damage}",
    short=100,
    long=4000,
)
def test_a_damaged_checkpoint_is_passed_over_with_one_line(trials, whole, tmp_path, damage):
    for chance in trials:
        folder = shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=True)
        if not damaged(folder / NEWEST, DAMAGES[damage], chance):
            continue
        found = checkpoints.restore_checkpoint(folder)
        assert found.path.name == "checkpoint-00000002.pt" and save_in_child.same(found.state, save_in_child.state(2))
        assert len(found.skipped) == 1 and NEWEST in found.skipped[0] and "\n" not in found.skipped[0]
        for place in (folder, folder / NEWEST):  # what evaluate and predict do
            with pytest.raises(CheckpointError, match=NEWEST):
                checkpoints.load_checkpoint(place)


@pytest.mark.promise(
    "a run goes on from a good checkpoint", fault="`latest` damaged, empty or gone; files gone", short=50, long=2000
)
def test_a_damaged_pointer_or_missing_files_leave_a_good_checkpoint(trials, whole, tmp_path):
    for chance in trials:
        folder = shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=True)
        pointer = folder / checkpoints.LATEST_FILE
        what = chance.choice(["file gone", "pointer gone", "pointer empty", "pointer damaged"])
        if what == "pointer damaged":
            damaged(pointer, chance.choice(list(DAMAGES.values())), chance)
        elif what == "pointer empty":
            pointer.write_text("")
        else:
            (folder / NEWEST if what == "file gone" else pointer).unlink()
        found = checkpoints.restore_checkpoint(folder)
        assert save_in_child.same(found.state, save_in_child.state(found.state.step)) and found.path.is_file()
        # A damaged pointer may happen to name an older one.
        assert found.state.step == {"file gone": 2, "pointer damaged": found.state.step}.get(what, 3)


@pytest.mark.promise("nothing is deleted", fault="all checkpoints damaged", short=10, long=300)
def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(trials, whole, tmp_path):
    for chance in trials:
        folder = shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=True)
        for path in folder.glob(checkpoints.FILE_GLOB):
            while not damaged(path, chance.choice(list(DAMAGES.values())), chance):
                pass
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(CheckpointError, match=r"no checkpoint can be read.*nothing was deleted") as told:
            checkpoints.restore_checkpoint(folder)
        assert "\n" not in str(told.value)
        facts = save_in_child.facts()
        for resume in (True, False):
            with pytest.raises(TrainError):
                prepare_run(RunOptions(folder=folder, resume=resume), facts)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.promise(
    "what is not a number is not saved, and not gone on from", fault="NaN in a tensor", short=5, long=50
)
def test_a_checkpoint_with_nan_is_neither_saved_nor_gone_on_from(trials, whole, tmp_path):
    for chance in trials:
        folder = shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=True)
        state = save_in_child.state(4)
        tensor = chance.choice([*state.parameters.values(), *state.velocity.values()])
        tensor[chance.randrange(len(tensor))] = chance.choice([float("nan"), float("inf"), -float("inf")])
        with pytest.raises(TrainError, match=r"not a number after step 4.*smaller `learning_rate`"):
            checkpoints.save_checkpoint(folder, state)
        assert save_in_child.same(checkpoints.load_checkpoint(folder), save_in_child.state(3))
        old = torch.load(folder / NEWEST, weights_only=True) | {"schema": checkpoints.SCHEMA_WITHOUT_CHECKSUM}
        old["velocity"]["w"][chance.randrange(64)] = float("nan")
        torch.save(old, folder / NEWEST)
        assert checkpoints.restore_checkpoint(folder).state.step == 2


def test_a_checkpoint_of_the_first_schema_is_read(whole, tmp_path):
    state = torch.load(whole / NEWEST, weights_only=True)
    assert state["schema"] == checkpoints.SCHEMA
    torch.save(state | {"schema": checkpoints.SCHEMA_WITHOUT_CHECKSUM}, tmp_path / "old.pt")
    assert save_in_child.same(checkpoints.load_checkpoint(tmp_path / "old.pt"), save_in_child.state(3))


def test_evaluate_and_predict_refuse_a_damaged_checkpoint_with_one_line(whole, sample_shards, sample_images, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / NEWEST).write_bytes((folder / NEWEST).read_bytes()[:-1])
    image = next((sample_images / "train").glob("*/*_0001.jpg"))
    for words in (["evaluate"], ["predict", image]):
        result = CliRunner().invoke(main, [*map(str, words), "--data", str(sample_shards), "--checkpoint", str(folder)])
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ") and NEWEST in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.promise(
    "a run whose newest checkpoint is damaged ends as if it were not", fault="a flipped bit", short=1, long=5
)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        run = shutil.copytree(short_run, tmp_path / str(number), copy_function=os.link)
        newest = checkpoints.find_latest(run)
        data = bytearray(newest.read_bytes())
        newest.unlink()  # a link
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        newest.write_bytes(data)
        del data
        done = training.resume(training.command(sample_shards, run), run, short_run)
        assert len(done.lines) == 1 and newest.name in done.lines[0] and "continuing from" in done.lines[0]


@pytest.mark.promise("a run that diverges stops, with a good last checkpoint", fault="a learning rate of 10 to 10⁵",
                     short=1, long=6)  # fmt: skip
def test_a_run_that_diverges_stops_with_advice_and_a_good_checkpoint(trials, sample_shards, tmp_path):
    for number, chance in enumerate(trials):
        run = tmp_path / str(number)
        words = training.command(sample_shards, run, "--lr", 10 ** chance.uniform(1, 5), every=1, epochs=4)
        done = training.wait_for(training.start(words))
        assert "smaller --lr" in done.error
        if list(run.glob(checkpoints.FILE_GLOB)):
            assert checkpoints.load_checkpoint(run).find_non_finite() is None
