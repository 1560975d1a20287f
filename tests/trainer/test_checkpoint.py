"""Checkpoints: round trip, newest two kept, damage and mismatch named, no code run from the file."""

import io
import pickle
import struct
import zipfile
from dataclasses import asdict, replace

import pytest
import torch

from alexstream.pipeline.batch import DataFacts, ImagePreprocessing
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import Checkpoint, make_checksum_comment
from alexstream.trainer.errors import CheckpointError, CheckpointVersionError, TrainError
from alexstream.trainer.recipe import Recipe
from alexstream.trainer.torch_file import load_torch_file, name_schema

FACTS = DataFacts(
    num_train=10, num_val=2, classes=("a", "b"), train_digest="d1", val_digest="d2",
    augmentation="paper", seed=0, batch_size=4,
)  # fmt: skip


def state(step=7):
    return Checkpoint(
        step=step,
        errors=(0.5, float("nan")),
        recipe=Recipe(),
        data=checkpoints.make_checkpoint_data(FACTS),
        parameters={"w": torch.arange(3.0)},
        velocity={"w": torch.ones(3)},
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    loaded = checkpoints.load_checkpoint(checkpoints.save_checkpoint(tmp_path, state()))
    assert loaded.step == 7 and loaded.errors[0] == 0.5 and loaded.recipe == Recipe()
    assert torch.equal(loaded.parameters["w"], torch.arange(3.0)) and torch.equal(loaded.velocity["w"], torch.ones(3))


PREPROCESSING = ImagePreprocessing(
    encode=EncodeRecipe(quality=90),
    mean=torch.arange(3 * 256 * 256.0).reshape(3, 256, 256) / 1000,
    divisors=(1.0, 2.0, 0.5),
    class_names=("a cat", "a dog"),
)


def test_what_prepares_pictures_comes_back(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, replace(state(), preprocessing=PREPROCESSING))
    made = checkpoints.load_checkpoint(path).preprocessing
    assert torch.equal(made.mean, PREPROCESSING.mean) and made.divisors == (1.0, 2.0, 0.5)
    assert made.encode == EncodeRecipe(quality=90) and made.class_names == ("a cat", "a dog")
    assert torch.load(path, weights_only=True)["preprocessing"]["encode"]["quality"] == 90
    assert checkpoints.load_checkpoint(checkpoints.save_checkpoint(tmp_path, state(8))).preprocessing is None


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"mean": torch.zeros(3, 255, 255)}, "mean is .*255"),
        ({"mean": torch.zeros(256, 256, 3)}, "mean is .*256, 256, 3"),
        ({"mean": torch.full((3, 256, 256), float("nan"))}, "mean is not a number"),
        ({"mean": torch.zeros(3, 4096, 4096)}, "mean is .*4096"),
        ({"mean": "mean.npy"}, "mean is 'mean.npy'"),
        ({"divisors": [1.0, 0.0, 1.0]}, "divisors"),
        ({"divisors": [1.0, 1.0]}, "divisors has 2 entries"),
        ({"encode": {**asdict(EncodeRecipe()), "size_px": 1 << 20}}, "size_px"),
        ({"class_names": ["one", "two", "three"]}, "class_names are not as many"),
        ({"more": 1}, "made by a newer alexstream"),
    ],
)
def test_what_prepares_pictures_is_checked(tmp_path, changed, match):
    fields = {**asdict(replace(state(), preprocessing=PREPROCESSING)), "schema": checkpoints.SCHEMA_WITHOUT_CHECKSUM}
    fields["preprocessing"] |= changed
    torch.save({**fields, "errors": []}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=match):
        checkpoints.load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("place", ["data", "recipe", "preprocessing"])
def test_a_tensor_where_none_is_saved_is_not_read(tmp_path, place):
    """A file of gigabytes may be a hole in the disk: what is not due is refused by its size, before it is read."""
    small = replace(state(), recipe=Recipe(width=0.125), preprocessing=PREPROCESSING)
    fields = {**asdict(small), "schema": checkpoints.SCHEMA_WITHOUT_CHECKSUM}
    fields["errors"] = []
    fields[place] = {**fields[place], "w": torch.zeros(4_000_000)}
    torch.save(fields, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"4,000,006 numbers|not a known field"):
        load_torch_file(tmp_path / "c.pt", checkpoints._check_due)


def test_latest_is_the_newest_and_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, state(step))
    assert checkpoints.find_latest(tmp_path).name == "checkpoint-00000003.pt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000002.pt", "checkpoint-00000003.pt", "latest"]


def test_only_checkpoints_that_a_run_can_have_saved_are_deleted(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    outside = checkpoints.save_checkpoint(tmp_path / "elsewhere", state(1))
    (tmp_path / "checkpoint-00000001.pt").symlink_to(outside)
    mine = ["checkpoint-00000001-good.pt", "checkpoint-0.pt", "checkpoint-00000001.pt"]
    for name in mine[:2]:
        (tmp_path / name).write_bytes(b"kept")
    for step in (2, 3, 4):
        checkpoints.save_checkpoint(tmp_path, state(step), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {
        *mine, "checkpoint-00000004.pt", "latest", "elsewhere",
    }  # fmt: skip
    assert checkpoints.load_checkpoint(tmp_path / "checkpoint-00000001.pt").step == 1


def test_a_folder_without_checkpoints_has_no_latest_and_cannot_be_loaded(tmp_path):
    assert checkpoints.find_latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.load_checkpoint(tmp_path / "nothing.pt")


def test_a_pointer_to_a_missing_or_outside_file_is_an_error(tmp_path):
    for name in ("checkpoint-00000009.pt", "../elsewhere.pt"):
        (tmp_path / checkpoints.LATEST_FILE).write_text(name)
        with pytest.raises(CheckpointError, match="names"):
            checkpoints.load_checkpoint(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_checkpoint_is_an_error(tmp_path, cut):
    path = checkpoints.save_checkpoint(tmp_path, state())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoints.load_checkpoint(path)


def test_a_run_that_went_back_keeps_what_it_saves_and_what_is_later(tmp_path):
    for step in (10, 20, 30):
        checkpoints.save_checkpoint(tmp_path, state(step), keep=3)
    checkpoints.save_checkpoint(tmp_path, state(15))
    assert checkpoints.find_latest(tmp_path).name == "checkpoint-00000015.pt"
    kept = sorted(int(path.stem[-8:]) for path in tmp_path.glob("*.pt"))
    assert kept == [10, 15, 20, 30]  # of those up to 15 the last two; the later ones will be written again


def test_a_checkpoint_of_a_version_without_orders_is_of_the_global_one(tmp_path):
    data = {name: value for name, value in state().data.items() if name != "order"}
    old = replace(state(), data=data)
    old.require_match(FACTS, Recipe(), tmp_path)
    with pytest.raises(CheckpointError, match="order = 'global', but this run has 'grouped'"):
        old.require_match(replace(FACTS, order="grouped"), Recipe(), tmp_path)


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The archive without its seal, as the first schema had none; ``change`` turns one member's bytes into others."""
    with zipfile.ZipFile(path) as archive:
        members = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


def unsealed(_name, content):
    return content.replace(checkpoints.SCHEMA.encode(), checkpoints.SCHEMA_WITHOUT_CHECKSUM.encode())


def test_a_packed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    """Zeros pack a thousandfold: a file of a megabyte would take a gigabyte. There is no code in this one."""
    path = checkpoints.save_checkpoint(tmp_path, replace(state(), parameters={"w": torch.zeros(1000)}))
    rewritten(path, unsealed)
    assert checkpoints.load_checkpoint(path).step == 7  # as it is, it is read
    rewritten(path, unsealed, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="its parts are packed"):
        checkpoints.load_checkpoint(path)


def test_parts_that_claim_more_than_the_file_holds_are_refused(tmp_path):
    """Without being packed: the directory of the archive says terabytes, and what would be read is refused first."""
    path = checkpoints.save_checkpoint(tmp_path, state())
    rewritten(path, unsealed)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the last entry of the directory; its sizes are at 20 and 24
    content[entry + 20 : entry + 28] = struct.pack("<II", 0xFFFF0000, 0xFFFF0000)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="claim to be larger than the file"):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("where", ["parameters", "velocity"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 40),  # four terabytes in four bytes
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, device="meta"),
        torch.zeros(3).to_sparse(),
    ],
    ids=["expanded", "float64", "meta", "sparse"],
)
def test_tensors_that_are_not_what_is_saved_are_refused(where, tensor):
    with pytest.raises(ValueError, match="w is no tensor that was saved"):
        replace(state(), **{where: {"w": tensor}})


@pytest.mark.parametrize("where", ["parameters", "velocity"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_is_neither_saved_nor_gone_on_from(tmp_path, monkeypatch, where, value):
    wrong = replace(state(), **{where: {"w": torch.tensor([1.0, value])}})
    with pytest.raises(TrainError, match="w is not a number after step 7, so nothing was saved; start again with a"):
        checkpoints.save_checkpoint(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:  # as an older version saved it
        patch.setattr(Checkpoint, "find_non_finite", lambda self: None)
        path = checkpoints.save_checkpoint(tmp_path, wrong)
    with pytest.raises(CheckpointError, match="w is not a number; take an older checkpoint"):
        checkpoints.load_checkpoint(path)


def test_a_step_below_zero_is_no_state():
    assert state(0).step == 0
    with pytest.raises(ValueError, match="step is -1"):
        state(-1)


def test_a_checkpoint_without_velocity_is_read(tmp_path):
    """What other programs make: parameters alone."""
    buffer = {"schema": checkpoints.SCHEMA_WITHOUT_CHECKSUM, "step": 3, "errors": [], "recipe": asdict(Recipe())}
    buffer |= {"data": state().data, "parameters": state().parameters}
    torch.save(buffer, tmp_path / "checkpoint-00000003.pt")
    loaded = checkpoints.load_checkpoint(tmp_path)
    assert loaded.step == 3 and loaded.velocity == {}


def test_every_error_of_a_run_comes_back(tmp_path):
    loaded = checkpoints.load_checkpoint(
        checkpoints.save_checkpoint(tmp_path, replace(state(), errors=(0.5, 0.25, 0.125)))
    )
    assert loaded.errors == (0.5, 0.25, 0.125) and loaded.data["classes"] == ["a", "b"]


def test_without_a_pointer_the_newest_is_the_last_step(tmp_path):
    for step in (9, 10, 11):
        checkpoints.save_checkpoint(tmp_path, state(step), keep=3)
    (tmp_path / checkpoints.LATEST_FILE).unlink()
    assert checkpoints.load_checkpoint(tmp_path).step == 11


def test_what_a_run_goes_on_from_is_the_newest_that_can_be_read(tmp_path):
    assert checkpoints.restore_checkpoint(tmp_path) is None
    paths = [checkpoints.save_checkpoint(tmp_path, state(step), keep=4) for step in (1, 2, 3, 4)]
    assert (
        checkpoints.restore_checkpoint(tmp_path).path == paths[3]
        and checkpoints.restore_checkpoint(tmp_path).skipped == ()
    )
    (tmp_path / checkpoints.LATEST_FILE).write_text("checkpoint-00000002.pt")  # the one that it names comes first
    assert checkpoints.restore_checkpoint(tmp_path).state.step == 2
    paths[1].write_bytes(b"")
    restored = checkpoints.restore_checkpoint(tmp_path)
    assert restored.state.step == 4 and len(restored.skipped) == 1
    assert "checkpoint-00000002.pt" in restored.skipped[0]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        checkpoints.restore_checkpoint(tmp_path)


def test_a_checkpoint_of_this_schema_without_its_seal_is_refused(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, state())
    rewritten(path, lambda _name, content: content)
    with pytest.raises(CheckpointError, match="its end, which holds its sha256, is missing"):
        checkpoints.load_checkpoint(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, state())
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            checkpoints.load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_no_code_is_run_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for writer in (lambda p: torch.save({"x": Bomb()}, p), lambda p: p.write_bytes(pickle.dumps(Bomb()))):
        writer(tmp_path / "evil.pt")
        with pytest.raises(CheckpointError):
            checkpoints.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("facts", "recipe", "both"),
    [
        ({"train_digest": "other"}, {}, "'d1'.*'other'"),
        ({"batch_size": 8}, {}, "batch_size = 4.*8"),
        ({"seed": 1}, {}, "seed = 0.*1"),
        ({"augmentation": "none"}, {}, "'paper'.*'none'"),
        ({"order": "grouped"}, {}, "order = 'global'.*'grouped'"),
        ({}, {"learning_rate": 0.1}, r"learning_rate = 0\.01.*0\.1"),
    ],
)
def test_another_run_is_refused_with_both_values(tmp_path, facts, recipe, both):
    state().require_match(FACTS, Recipe(), tmp_path)
    with pytest.raises(CheckpointError, match=both):
        state().require_match(replace(FACTS, **facts), Recipe(**recipe), tmp_path)


def saved_by_newer(path, schema="alexstream-checkpoint/3"):
    """A whole checkpoint of a format that is still to come: with a tensor of 16 bits and a set, which are not read."""
    buffer = io.BytesIO()
    torch.save({"schema": schema, "w": torch.zeros(3, dtype=torch.bfloat16), "names": {"a"}}, buffer)
    name_schema(buffer, schema)
    comment = make_checksum_comment(buffer)
    path.write_bytes(buffer.getvalue() + comment)


def test_a_checkpoint_of_a_newer_version_that_holds_what_is_not_read_is_named_as_such(tmp_path):
    path = tmp_path / "checkpoint-00000009.pt"
    saved_by_newer(path)
    with pytest.raises(CheckpointVersionError, match=r"made by a newer .*checkpoint/3, .*not damaged: upgrade"):
        checkpoints.load_checkpoint(path)
    checkpoints.save_checkpoint(tmp_path, state(7))
    (tmp_path / checkpoints.LATEST_FILE).write_text(path.name)
    with pytest.raises(CheckpointVersionError, match="upgrade"):  # and the older one is not gone on from
        checkpoints.restore_checkpoint(tmp_path)


@pytest.mark.parametrize("schema", ["alexstream-checkpoint/2", "alexstream-dataset/9", "x" * 65, "\x1b[2J/3"])
def test_a_part_that_names_no_newer_version_changes_nothing(tmp_path, schema):
    saved_by_newer(tmp_path / "c.pt", schema)
    with pytest.raises(CheckpointError, match="no readable checkpoint") as caught:
        checkpoints.load_checkpoint(tmp_path / "c.pt")
    assert not isinstance(caught.value, CheckpointVersionError) and str(caught.value).isprintable()


def test_the_part_that_names_the_version_is_passed_over_by_torch_and_by_older_versions(tmp_path):
    """Older versions read what torch saved and the comment; the same state is the same file, on another day too."""
    path = checkpoints.save_checkpoint(tmp_path, state())
    with zipfile.ZipFile(path) as archive:
        assert archive.read(f"{archive.namelist()[0].partition('/')[0]}/alexstream").decode() == checkpoints.SCHEMA
        assert {one.date_time[0] for one in archive.infolist()} == {1980}
    assert torch.load(path, weights_only=True)["step"] == 7 and load_torch_file(path, lambda state: None)["step"] == 7
    with zipfile.ZipFile(path) as archive:
        members = [(one, archive.read(one)) for one in archive.infolist() if not one.filename.endswith("/alexstream")]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # as an older version saved it
        for one, content in members:
            archive.writestr(one, content)
    comment = make_checksum_comment(buffer)
    path.write_bytes(buffer.getvalue() + comment)
    assert checkpoints.load_checkpoint(path).step == 7
