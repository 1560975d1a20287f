"""A run folder made by somebody else: what its config.toml names is opened only if it may be, and said before."""

import json
import os

import pytest

from alexstream.core.errors import DatasetError
from alexstream.report import subject
from alexstream.report.subject import ReportRequest, Run, open_subject
from alexstream.sharding.dataset_v1.manifest import find_split, load_manifest
from tests.support.small_dataset import Small


@pytest.fixture
def data(tmp_path):
    """A data set of a training split."""
    (tmp_path / "data").mkdir()
    Small(tmp_path / "data" / "train")
    return tmp_path / "data"


def run_folder(tmp_path, options, **recorded):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(
        "".join(f"{name} = {json.dumps(str(value))}\n" for name, value in options.items())
    )
    (folder / "run.json").write_text(json.dumps({"data": recorded}))
    return folder


def digest_of(split):
    return load_manifest(split).digest


@pytest.mark.parametrize("option", ["data", "val"])
@pytest.mark.parametrize(
    "place", ["s3://bucket/train", "S3://bucket/x", "gs://b/x", "az://b/x", "memory://x", "http://h/x"]
)
def test_an_object_store_is_not_opened_for_a_file(tmp_path, data, monkeypatch, capsys, option, place):
    monkeypatch.setattr(subject, "parse_location", lambda text: pytest.fail(text) if "://" in text else data)
    folder = run_folder(tmp_path, {"data": data, option: place})
    found = open_subject(ReportRequest(folder=folder))
    assert found.stream is None and not found.splits
    assert f"names {place} of an object store" in found.missing and "give the data set with `data`" in found.missing
    assert place in capsys.readouterr().err


def test_a_folder_of_this_machine_is_named_before_it_is_opened(tmp_path, data, monkeypatch, capsys):
    folder = run_folder(tmp_path, {"data": data}, train_digest=digest_of(data / "train"))
    said = []
    monkeypatch.setattr(subject, "find_split", lambda *at: said.append(capsys.readouterr().err) or find_split(*at))
    found = open_subject(ReportRequest(folder=folder))
    assert found.splits == [data / "train"] and str(data) in said[0] and said[0].count("\n") == 1


@pytest.mark.parametrize("recorded", [{}, {"train_digest": None}, {"train_digest": ""}, {"train_digest": "0" * 64}])
def test_a_data_set_that_the_run_does_not_know_by_its_digest_is_not_shown(tmp_path, data, recorded):
    """Its maker guessed where another's data set lies; the page would hold its images."""
    folder = run_folder(tmp_path, {"data": data}, **recorded)
    found = open_subject(ReportRequest(folder=folder))
    assert found.stream is None and "`data`" in found.missing and "digest" in found.missing


def test_a_run_without_a_digest_is_shown_with_the_data_set_that_is_typed(tmp_path, data):
    folder = run_folder(tmp_path, {"data": "/nowhere"})
    assert open_subject(ReportRequest(folder=folder, data=data)).splits == [data / "train"]
    (folder / "run.json").write_text(json.dumps({"data": {"train_digest": "0" * 64}}))
    with pytest.raises(DatasetError, match="was trained on 0000"):
        open_subject(ReportRequest(folder=folder, data=data))


@pytest.mark.parametrize("known", [True, False])
def test_a_validation_split_elsewhere_must_be_known_too(tmp_path, data, known):
    Small(tmp_path / "mine", shards=1)  # named outright, a split may be any
    digest = digest_of(tmp_path / "mine")
    recorded = {"train_digest": digest_of(data / "train"), "val_digest": digest if known else "0" * 64}
    found = open_subject(
        ReportRequest(folder=run_folder(tmp_path, {"data": data, "val": tmp_path / "mine"}, **recorded))
    )
    assert (found.stream is not None) == known


@pytest.mark.parametrize("name", ["config.toml", "run.json"])
def test_a_link_in_the_folder_is_not_shown(tmp_path, name):
    """A page to be sent back would hold the text of any file of the reader's."""
    folder = run_folder(tmp_path, {"data": "/x"}, train_digest="0" * 64)
    os.replace(folder / name, tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    run = Run.from_folder(folder)
    assert (run.options, run.facts) != ({}, {}) and {"config.toml": run.options, "run.json": run.facts}[name] == {}


@pytest.mark.parametrize("name", ["config.toml", "run.json"])
def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path, name):
    folder = run_folder(tmp_path, {"data": "/x"})
    (folder / name).unlink()
    os.mkfifo(folder / name)
    Run.from_folder(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[("run.json", text) for text in ("[1]", "{", None)],
        *[("config.toml", text) for text in ("a = ", "a." * 100 + "b = 1", None)],
        ("metrics.jsonl", None),
    ],
)
def test_what_is_left_out_of_a_report_is_said_even_when_it_is_quiet(tmp_path, capsys, name, content):
    folder = run_folder(tmp_path, {"data": "/nowhere"})
    (folder / "metrics.jsonl").touch()
    open_subject(ReportRequest(folder=folder, quiet=True))
    assert capsys.readouterr().err == ""
    (folder / name).unlink()
    os.mkfifo(folder / name) if content is None else (folder / name).write_text(content)
    open_subject(ReportRequest(folder=folder, quiet=True))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {folder}: left out of the report") and line.endswith(f": {name}; restore them")
