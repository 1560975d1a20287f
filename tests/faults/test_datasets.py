"""Damage to a finished data set: ``verify`` names the file, and nobody reads what is no longer what was written."""

import json
import shutil
from itertools import islice

import pytest
import torch
from click.testing import CliRunner

from alexstream.commands.main import main
from alexstream.core.errors import AlexstreamError
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.faults.conversion import convert
from tests.faults.damages import ADDED, DAMAGES, decodes_otherwise, flip, other_split, zeros
from tests.faults.sources import draw
from tests.support.comparisons import file_hashes

SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A data set, and three others: another seed, another encoding, other images."""
    folder = tmp_path_factory.mktemp("sets")
    for name, source_seed, options in (
        ("one", 0, {}),
        ("seed", 0, {"seed": 7}),
        ("raw", 0, {"encode": EncodeRecipe(encoding="raw")}),
        ("images", 1, {}),
    ):
        source = folder / f"source{source_seed}"
        for split, count in (("train", 12), ("val", 8)):
            if not (source / split).is_dir():
                draw(source / split, count, seed=source_seed)
            shard_split(
                ShardRequest(source=source / split, folder=folder / name / split, split=split, **options), quiet=True
            )
    return folder


@pytest.fixture(scope="module")
def expected(sets):
    """What the undamaged set gives to each that reads it."""
    return {split: batches(sets / "one" / split) for split in SPLITS} | {
        words: cli(*words, sets / "one" / "train") for words in READERS
    }


READERS = [("info",), ("info", "--json"), ("stats", "--quiet"), ("stats", "--json", "--quiet")]


def cli(*words):
    """Exit code, stdout and stderr of a command."""
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def batches(folder):
    """Two epochs of the stream of a split, as ids, labels and pixels."""
    stream = ShardedData(train=folder, batch_size=4).training()
    return [(b.ids_N, b.labels_N, b.images_NCHW) for b in islice(stream, 6)]


def same_batches(some, others):
    return all(
        torch.equal(a, b) for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True)
    )


def one_line(done, *words):
    code, _, stderr = done
    assert code == 1 and len(stderr.strip().splitlines()) == 1, done
    assert all(word in stderr for word in ("Error: ", *words)), stderr


def damaged(sets, folder, trials, chance):
    """A damaged copy of the set: which damage, which file. The folder is listed, so that none is forgotten."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sets / "one", folder)
    files = sorted(path for split in SPLITS for path in (folder / split).iterdir())
    pairs = [(damage, path) for damage in DAMAGES for path in files]
    others = [sets / name for name in ("seed", "raw", "images")]
    number = trials.number * 89
    while True:
        damage, path = pairs[number % len(pairs)]
        beside = folder / ("val" if path.parent.name == "train" else "train")
        if damage(path, chance, beside=beside, others=others):
            return damage, path
        number += 1


@pytest.mark.promise("verify names every damaged file, and nothing reads another byte than was written",
                     fault="every kind of damage to every file of a data set", short=24, long=1500)  # fmt: skip
def test_damage_is_named_and_what_is_read_is_what_was_written(trials, sets, expected, tmp_path):
    folder = tmp_path / "set"
    for chance in trials:
        damage, path = damaged(sets, folder, trials, chance)
        what = f"{damage.__name__} of {path.name}"
        check_verify(folder, path, damage, what)
        check_readers(path.parent, damage, expected, what)


def check_verify(folder, path, damage, what):
    """Both depths find it and name the file; an added file is named by its own name."""
    for words in (["--fast"], []):
        code, stdout, stderr = cli("verify", folder, "--json", "--quiet", *words)
        assert code == 1 and len(stderr.strip().splitlines()) == 1, f"{what}: {stdout}{stderr}"
        verdicts = {json.loads(line)["folder"]: json.loads(line) for line in stdout.splitlines()}
        if path.name == layout.MANIFEST and str(path.parent) not in verdicts:
            assert str(path) in stderr, f"{what}: {stderr}"
            continue
        found = {finding["file"] for finding in verdicts[str(path.parent)]["findings"]}
        known = set(hashes_or_names(path.parent))
        assert (path.name in found) if damage not in ADDED else found - {path.name} and found <= known, (
            f"{what}: {found}"
        )


def hashes_or_names(folder):
    return [path.name for path in folder.iterdir()]


def check_readers(split, damage, expected, what):
    """Each reader refuses in one line, or gives what it gives of the undamaged set."""
    if split.name == "train":
        for words in READERS:
            done = cli(*words, split)
            known = expected[words]
            if done[0] != 0:
                one_line(done)
            else:
                place = [done[1].splitlines()[1:], known[1].splitlines()[1:]]
                assert place[0] == place[1] or ("--json" in words and equal_json(done[1], known[1])), f"{what}, {words}"
    try:
        given = batches(split)
    except AlexstreamError as error:
        assert "\n" not in str(error) and str(split) in str(error), f"{what}: {error}"
        return
    assert same_batches(given, expected[split.name]) or decodes_otherwise(split), what


def equal_json(text, other):
    some, others = json.loads(text), json.loads(other)
    return {**some, "folder": ""} == {**others, "folder": ""}


@pytest.mark.promise("the advice of verify's last line works: the same source gives the same set again",
                     fault="damage to every file", short=4, long=100)  # fmt: skip
def test_what_was_damaged_is_made_again_from_the_source(trials, sets, tmp_path):
    folder = tmp_path / "set"
    source = sets / "source0" / "train"
    for chance in trials:
        _, path = damaged(sets, folder, trials, chance)
        split = path.parent
        advice = cli("verify", split, "--quiet")[2]
        assert "shard the source again" in advice or "run the shard command that began it again" in advice, advice
        shutil.rmtree(split)
        done = convert(source.with_name(split.name), split, "--split", split.name)
        assert done.code == 0, done.stderr
        assert file_hashes(split) == file_hashes(sets / "one" / split.name)
        assert cli("verify", split, "--quiet")[0] == 0


@pytest.mark.promise("swapped shards of one set are found", fault="two shards have changed places", short=2, long=20)
def test_two_shards_of_one_set_that_changed_places_are_named(trials, tmp_path, monkeypatch):
    monkeypatch.setattr("alexstream.sharding.split_plans.choose_num_shards", lambda *_: 2)
    shard_split(ShardRequest(source=draw(tmp_path / "src", 16), folder=tmp_path / "whole"), quiet=True)
    for chance in trials:
        copy = shutil.copytree(tmp_path / "whole", tmp_path / f"copy{trials.number}")
        extension = chance.choice(["tar", "idx", "parquet"])
        paths = [copy / f"train-00000{number}.{extension}" for number in (0, 1)]
        data = [path.read_bytes() for path in paths]
        paths[0].write_bytes(data[1])
        paths[1].write_bytes(data[0])
        code, stdout, _ = cli("verify", copy, "--fast", "--quiet")
        assert code == 1 and all(f"{path}: " in stdout for path in paths), stdout
        with pytest.raises(AlexstreamError):
            batches(copy)


@pytest.mark.parametrize(("old", "new"), [(b"\n", b" \n"), (b"e-", b"E-"), (b"\n}\n", b"\n}\n\n"), (b": ", b":  ")])
def test_other_spellings_of_the_same_values_are_damage(old, new, sets, tmp_path):
    for number, name in enumerate((layout.MANIFEST, layout.STATS)):
        copy = shutil.copytree(sets / "one" / "train", tmp_path / str(number))
        data = (copy / name).read_bytes()
        if old in data:
            (copy / name).write_bytes(data.replace(old, new, 1))
            assert f"{copy / name}: " in cli("verify", copy, "--fast", "--quiet")[1]


def test_the_damages_are_damages(tmp_path):
    import random

    (tmp_path / "train").mkdir()
    path = tmp_path / "train" / "x"
    path.write_bytes(b"a" * 5000)
    assert flip(path, random.Random(0)) and path.read_bytes() != b"a" * 5000
    assert zeros(path, random.Random(0)) and b"\0" * 400 in path.read_bytes()
    assert not other_split(path, random.Random(0), beside=tmp_path / "val")
