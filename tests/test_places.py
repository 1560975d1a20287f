"""Data sets and runs are given in either way, and what is none of them is told as what it is."""

import json
import shutil

import pytest

from alexstream.sharding.dataset_v1.missing import describe_missing_dataset
from tests.support.commands import all_commands, call, error_of

READERS = ["verify", "info", "stats", "preview", "train", "evaluate", "neighbours", "doctor"]
READERS += ["bench stream", "bench overlap"]


def test_every_command_that_reads_a_data_set_takes_it_in_both_ways():
    """``predict``, whose arguments are pictures, takes ``--data`` alone, ``report`` a run as well."""
    both = {name for name, command in all_commands().items() if "data_argument" in [one.name for one in command.params]}
    option = {
        name for name, command in all_commands().items() if "--data" in [w for o in command.params for w in o.opts]
    }
    assert both == set(READERS) == option - {"predict", "report"}


@pytest.mark.parametrize("words", [["info", "--json"], ["verify", "--fast", "--quiet"], ["stats", "--json", "--quiet"]])
def test_an_argument_and_its_option_are_the_same(sample_shards, words):
    by_argument, by_option, by_both = (
        call(*words, *place)
        for place in ([sample_shards], ["--data", sample_shards], [f"{sample_shards}/", "--data", sample_shards])
    )
    assert by_argument.exit_code == 0
    assert by_argument.stdout == by_option.stdout == by_both.stdout


@pytest.mark.parametrize("name", READERS)
def test_two_places_are_a_contradiction_and_none_is_missing(name):
    words = [*name.split(), *(["--out", "pictures.png"] if name == "neighbours" else [])]
    line = error_of(*words, "one", "--data", "two", exit_code=2)
    assert "one and --data two are two places; give one of them" in line
    if name != "doctor":
        assert "'DATA' or '--data'" in error_of(*words, exit_code=2)


def test_a_typed_data_set_goes_before_that_of_a_config_file(sample_shards, tmp_path):
    config = tmp_path / "info.toml"
    config.write_text('data = "nowhere"\njson = true\n')
    result = call("info", sample_shards / "val", "--config", config)
    assert result.exit_code == 0 and json.loads(result.stdout)["split"] == "val"
    assert "nowhere does not exist" in error_of("info", "--config", config)


def test_a_run_is_given_as_run_or_as_checkpoint(trained_run, sample_images, tmp_path):
    picture = next((sample_images / "val").glob("*/*.jpg"))
    file = next(trained_run.glob("*.pt"))
    said = call("predict", picture, "--checkpoint", file).stdout
    assert "%" in said
    for words in (
        ["--run", trained_run],
        ["--run", trained_run, "--checkpoint", "latest"],
        ["--run", trained_run, "--checkpoint", file.name],
        ["--run", trained_run, "--checkpoint", file],
        ["--run", trained_run, "--checkpoint", trained_run],
    ):
        assert call("predict", picture, *words).stdout == said, words
    line = error_of("predict", picture, "--run", tmp_path, "--checkpoint", file, exit_code=2)
    assert f"--checkpoint {file} is not in --run {tmp_path}" in line
    line = error_of("kernels", "--run", "one", "--run", "two", "--out", tmp_path / "kernels.png", exit_code=2)
    assert "takes one" in line


def test_latest_alone_is_of_the_usual_run(trained_run, sample_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, tmp_path / "runs" / "alexnet")
    picture = next((sample_images / "val").glob("*/*.jpg"))
    assert call("predict", picture, "--checkpoint", "latest").stdout == call("predict", picture).stdout != ""


def test_report_takes_a_run_and_a_data_set_in_both_ways(sample_shards, tmp_path):
    assert "one and --run two are two places" in error_of("report", "one", "--run", "two", exit_code=2)
    assert "'DIR', '--run' or '--data'" in error_of("report", exit_code=2)
    assert "does not exist" in error_of("report", "--data", tmp_path / "gone")
    assert "names another" in error_of("report", sample_shards, "--data", sample_shards / "train")


@pytest.mark.parametrize("words", [["info"], ["train"], ["evaluate"], ["preview"], ["report"], ["bench", "stream"]])
def test_what_is_no_data_set_is_told_as_what_it_is(words, sample_images, sample_shards, tmp_path, monkeypatch):
    """Only pictures are to be converted; nobody is told to make a data set of a folder that does not exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    for split in ("train", "val"):
        shutil.copytree(sample_shards / split, tmp_path / "begun" / split)
        (tmp_path / "begun" / split / "manifest.json").unlink()
    options = ["--out", "out.png"] if words == ["preview"] else []
    if words == ["evaluate"]:
        options = ["--run", tmp_path]

    def line(place):
        return error_of(*words, place, *options)

    shutil.copytree(sample_images / "val", tmp_path / "photos" / "val")
    convert = "photos is a folder of images, not a data set; convert it with: alexstream shard --src photos --out"
    assert convert in line("photos") and "photos/val" in line("photos/val")
    assert "phtos does not exist" in line("phtos") and "did you mean 'photos'?" in line("phtos")
    assert "notes.txt is a file" in line("notes.txt")
    assert "begun/train is no finished data set" in line("begun") and "run the shard command that began" in line(
        "begun"
    )
    assert "empty is no" in line("empty") or "empty is neither" in line("empty")
    for place in ("phtos", "notes.txt", "begun", "empty"):
        assert "--src" not in line(place)


def test_folders_that_cannot_be_looked_into_are_no_second_error(tmp_path):
    class Locked(type(tmp_path)):
        def exists(self, **_):
            raise PermissionError(13, "Permission denied")

    assert "is no data set" in describe_missing_dataset(Locked(tmp_path))
