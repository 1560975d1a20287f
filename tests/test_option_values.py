"""What options become: sizes, shares, recipes, conversions; each against numbers written down here."""

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from alexstream.commands.main import main
from alexstream.commands.options import ByteSizeParam, FitOnParam
from alexstream.trainer import run
from tests.support.commands import call, error_of
from tests.support.small_dataset import Small


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000000", 1_000_000), ("3k", 3072), ("3K", 3072), ("1.5MiB", 1_572_864), ("2gb", 2_147_483_648), ("1T", 2**40)],
)
def test_units_are_powers_of_1024_in_either_case(text, size):
    assert ByteSizeParam().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["0", "0.0G", "-1G", "64 gallons", "1e9", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(click.BadParameter, match="give for example 64G"):
        ByteSizeParam().convert(text, None, None)


def test_a_share_lies_between_0_and_1_and_is_neither():
    assert FitOnParam().convert("0.25", None, None) == 0.25
    for text in ("0", "1", "0.0", "1.0", "-0.5", "1.5"):
        with pytest.raises(click.BadParameter, match="not between 0 and 1"):
            FitOnParam().convert(text, None, None)


def asked_of_train(monkeypatch, *words):
    """The RunOptions and the augmentation that ``train`` asks for."""
    given = []
    monkeypatch.setattr(run, "train", lambda stream, options, **_: given.append((stream, options)))
    done = CliRunner().invoke(main, ["train", *map(str, words), "--devices", "1", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    ((stream, options),) = given
    return options, stream.augmentation


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ([], {}),
        (["--tanh"], {"activation": "tanh"}),
        (["--no-lrn"], {"lrn": False}),
        (["--no-overlap"], {"pool_size": 2}),
        (["--no-dropout"], {"dropout": 0.0}),
        (["--half"], {"columns": 1}),
    ],
)
def test_an_ablation_changes_its_part_of_the_recipe_and_no_other(sample_shards, tmp_path, monkeypatch, words, changed):
    paper = {"activation": "relu", "lrn": True, "pool_size": 3, "dropout": 0.5, "columns": 2}
    options, augmentation = asked_of_train(monkeypatch, "--data", sample_shards, "--run", tmp_path / "run", *words)
    assert {name: getattr(options.recipe, name) for name in paper} == {**paper, **changed}
    assert augmentation == "paper"


@pytest.mark.parametrize(
    ("words", "augmentation"),
    [(["--no-crops"], "paper-no-crops"), (["--no-lighting"], "paper-no-lighting"), (["--augment", "none"], "none")],
)
def test_ablations_of_the_images_are_augmentations(sample_shards, tmp_path, monkeypatch, words, augmentation):
    asked = asked_of_train(monkeypatch, "--data", sample_shards, "--run", tmp_path / "run", *words)
    assert asked[1] == augmentation


@pytest.mark.parametrize(
    ("words", "epochs"),
    [([], 90), (["--recipe", "original"], 93), (["--recipe", "original", "--epochs", 7], 7), (["--epochs", 93], 93)],
)
def test_a_recipe_has_the_epochs_of_its_source(sample_shards, tmp_path, monkeypatch, words, epochs):
    """Section 5: "roughly 90 cycles"; the program of 2012 ran 93 with its default schedule (docs/training.md)."""
    options, _ = asked_of_train(monkeypatch, "--data", sample_shards, "--run", tmp_path / "run", *words)
    assert options.epochs == epochs


def test_one_bad_file_ends_a_conversion_that_asks_for_it(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (300, 300), (9, 90, 200)).save(tmp_path / "photos" / name / "good.png")
    (tmp_path / "photos" / "ant" / "bad.png").write_bytes(b"no image")
    words = ("shard", "--src", tmp_path / "photos", "--workers", 1, "--quiet", "--out")
    said = error_of(*words, tmp_path / "strict", "--on-bad", "fail")
    assert "1 file of" in said and not list((tmp_path / "strict").rglob("manifest.json"))
    assert call(*words, tmp_path / "lenient").exit_code == 0


def test_statistics_that_are_not_those_of_the_shards_are_an_error(tmp_path):
    right = Small(tmp_path / "right")
    assert call("stats", right.folder, "--workers", 1, "--quiet").exit_code == 0
    wrong = Small(tmp_path / "wrong")
    wrong.stats_of = Small(tmp_path / "other", samples=2).stats_of
    wrong.write()
    done = call("stats", wrong.folder, "--workers", 1, "--quiet")
    assert done.exit_code == 1 and "differ from those of the shards" in done.stderr
