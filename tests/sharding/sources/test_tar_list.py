"""Lists of tars, as webdataset writes and expands them, and tars that come from commands and web servers."""

import functools
import hashlib
import http.server
import re
import shutil
import threading

import pytest
import webdataset
from click.testing import CliRunner

import alexstream
from alexstream.commands.main import main
from alexstream.core.errors import AlexstreamError, SourceError
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.tars import tar_list
from alexstream.sharding.sources.tars.tar_list import TarList, expand_tar_list, is_tar_list, open_source
from alexstream.sharding.sources.types import ListingLog
from tests.support import ROOT
from tests.support import imagenet_miniature as mini

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset's open files


def write_shards(folder, number=24, first=0):
    """Shards of ten samples by webdataset's own writer; each image's label is its number modulo three."""
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/train-%06d.tar", maxcount=10, start_shard=first, verbose=0) as writer:
        for i in range(number):
            writer.write({"__key__": f"{i:05}", "jpg": mini.jpeg(i), "cls": i % 3})


def list_samples(source, **options):
    """{(tar, number): label} of a list, as it is read."""
    found = open_source(str(source), **options)
    entries, _ = read_split(found)
    return {tuple(entry.path.rpartition(".")[0].split("/")[-2:]): int(entry.wnid) for entry in entries}


def read_split(found):
    """The entries of the training split of a list, and what was left out."""
    log = ListingLog()
    entries = list(detect_source(found.folder, tars=found.tars).splits["train"](log).entries)
    return entries, log.excluded


def read_by_webdataset(urls):
    """The same, as webdataset itself reads it."""
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return {(one["__url__"].rpartition("/")[2], one["__key__"]): int(one["cls"]) for one in samples}


@pytest.mark.parametrize(
    "words",
    [
        "train-{000000..000002}.tar",
        "train-{000000,000002}.tar",
        "train-000001.tar::{folder}/train-000002.tar",
        "train-00000{0..2..2}.tar",
    ],
)
def test_a_list_has_the_samples_that_webdataset_reads_from_it(tmp_path, words):
    write_shards(tmp_path)
    urls = f"{tmp_path}/{words.replace('{folder}', str(tmp_path))}"
    assert list_samples(urls) == read_by_webdataset(urls) != {}


def test_variables_are_those_of_webdataset(tmp_path, monkeypatch):
    write_shards(tmp_path)
    monkeypatch.setenv("WDS_SHARDS", str(tmp_path))
    assert list_samples("${SHARDS}/train-000001.tar") == read_by_webdataset("${SHARDS}/train-000001.tar") != {}
    with pytest.raises(SourceError, match="environment variable WDS_OTHER is not set"):
        open_source("${OTHER}/train-000001.tar")


def test_only_the_tars_of_the_list_are_read(tmp_path):
    write_shards(tmp_path)
    mini.write(tmp_path / "train-000009.tar", b"no tar at all")
    mini.write(tmp_path / "notes.txt", b"x")
    found = open_source(f"{tmp_path}/train-{{000000..000001}}.tar")
    assert found == TarList(tmp_path, ("train-000000.tar", "train-000001.tar"))
    entries, excluded = read_split(found)
    assert len(entries) == 20
    assert excluded == []


def test_tars_of_several_folders_have_the_folder_above_them_in_common(tmp_path):
    write_shards(tmp_path / "train" / "a", 10)
    write_shards(tmp_path / "train" / "b", 10, first=1)
    mini.write(tmp_path / "val" / "val-000000.tar", (tmp_path / "train/a/train-000000.tar").read_bytes())
    assert open_source(f"{tmp_path}/train/{{a/train-000000,b/train-000001}}.tar").folder == tmp_path / "train"
    found = open_source(f"{tmp_path}/train/a/train-000000.tar::{tmp_path}/val/val-000000.tar")
    assert set(detect_source(found.folder, tars=found.tars).splits) == {"train", "val"}


def test_a_list_in_an_object_store_is_read_in_place(tmp_path):
    upath = pytest.importorskip("upath")
    write_shards(tmp_path)
    root = upath.UPath("memory://listed/set")
    for name in ("train-000000.tar", "train-000001.tar"):
        (root / name).write_bytes((tmp_path / name).read_bytes())
    assert list_samples("memory://listed/set/train-{000000..000001}.tar") == list_samples(
        f"{tmp_path}/train-{{000000..000001}}.tar"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{d}/train-{{000000..000007}}.tar", "5 of 8 listed tars missing: train-000003.tar"),
        ("{d}/train-000000.tar::{d}/train-000000.tar", "names train-000000.tar twice"),
        ("{d}/train-{{000000..000001.tar::{d}/a.tar", "cannot be expanded"),
        ("{d}/train-000000.tar::s3://bucket/a.tar", r"tars in several places \(, s3\)"),
        ("{d}/train-000000.tar::pipe:cat {d}/train-000001.tar", "is read in place, but pipe:.* is fetched first"),
        ("{d}/{{flat,train-000000}}.tar", "flat.tar: no WebDataset samples with labels"),
    ],
)
def test_a_list_that_cannot_be_read_says_so_in_one_line(tmp_path, words, message):
    write_shards(tmp_path)
    mini.write(tmp_path / "flat.tar", mini.tar_bytes([("1.jpg", b"x"), ("2.jpg", b"x")]))
    with pytest.raises(AlexstreamError, match=message) as error:
        list_samples(words.format(d=tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a{1..2}", "b::c", "{x,y}.tar", "${d}"])
def test_what_lies_there_under_that_very_name_is_no_list(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert is_tar_list(name)
    mini.write(tmp_path / name, b"x")
    assert not is_tar_list(name)
    assert open_source(name).tars == ()


@pytest.mark.parametrize("name", ["images", "a{b}c", "a:b", "s3://bucket/folder", "http", "pipes/a.tar"])
def test_ordinary_names_are_no_lists(name):
    assert not is_tar_list(name)


def test_commands_are_run_once_and_their_tars_kept(tmp_path):
    write_shards(tmp_path / "far")
    log = tmp_path / "log"
    pipe = f"pipe:echo x >> {log}; cat {tmp_path}/far/train-00000{{0..2}}.tar"
    found = list_samples(pipe, fetch_to=tmp_path / "near")
    assert found == read_by_webdataset(f"{tmp_path}/far/train-{{000000..000002}}.tar")
    assert log.read_text() == "x\n" * 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "near").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "far").iterdir()
    }
    (tmp_path / "near/train-000001.tar").unlink()
    assert list_samples(pipe, fetch_to=tmp_path / "near") == found
    assert log.read_text() == "x\n" * 4


@pytest.mark.parametrize("verbose", ["0", "1"])  # at 1 webdataset itself does not look at exit codes
@pytest.mark.parametrize("end", ["exit 3", "exit 23", "exit 141", "kill -9 $$"])
def test_a_command_that_fails_after_half_of_a_tar_leaves_no_tar(tmp_path, monkeypatch, capfd, end, verbose):
    monkeypatch.setenv("GOPEN_VERBOSE", verbose)
    write_shards(tmp_path / "far")
    tar = tmp_path / "far/train-000000.tar"
    with pytest.raises(SourceError, match="cannot fetch pipe:head"):
        open_source(f"pipe:head -c 2000 {tar}; {end}", fetch_to=tmp_path / "near")
    assert list((tmp_path / "near").iterdir()) == []


def test_tars_come_from_a_web_server(tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, by which webdataset reads web addresses")
    write_shards(tmp_path / "far")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "far"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        at = f"http://127.0.0.1:{server.server_port}"
        found = list_samples(f"{at}/train-{{000000..000002}}.tar", fetch_to=tmp_path / "near")
        assert found == read_by_webdataset(f"{tmp_path}/far/train-{{000000..000002}}.tar")
        with pytest.raises(SourceError, match=r"cannot fetch http://.*missing.tar"):
            open_source(f"{at}/missing.tar", fetch_to=tmp_path / "near")
        assert not (tmp_path / "near/missing.tar").exists()
    finally:
        server.shutdown()
        server.server_close()


def test_no_command_runs_without_a_folder_for_its_tar(tmp_path):
    with pytest.raises(SourceError, match="can be read only once, so it is copied first"):
        open_source(f"pipe:touch {tmp_path}/ran; cat a.tar")
    assert list(tmp_path.iterdir()) == []


def test_no_command_runs_that_webdataset_is_told_to_refuse(tmp_path, monkeypatch):
    monkeypatch.setattr("webdataset.utils.enforce_security", True)  # WDS_SECURE=1
    with pytest.raises(SourceError, match="cannot open pipe URLs"):
        open_source(f"pipe:touch {tmp_path}/ran; cat a.tar", fetch_to=tmp_path / "near")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("words", ["${EVIL}", "{{a.tar,pipe:touch {d}/ran}}", "${EVIL}::a.tar"])
def test_no_command_runs_that_only_an_expansion_yields(tmp_path, monkeypatch, words):
    monkeypatch.setenv("WDS_EVIL", f"pipe:touch {tmp_path}/ran; cat a.tar")
    with pytest.raises(SourceError, match=r"expands to pipe:touch .*; write pipe: itself"):
        open_source(words.replace("{d}", str(tmp_path)).replace("{{", "{").replace("}}", "}"), fetch_to=tmp_path / "n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["cat a.tar b.tar", "cat shard", "cat .tar", "cat a.tar.gz"])
def test_a_command_must_name_the_tar_that_it_gives(tmp_path, command):
    with pytest.raises(SourceError, match=r"expected the name of one .tar in it"):
        open_source(f"pipe:touch {tmp_path}/ran; {command}", fetch_to=tmp_path / "near")
    assert not (tmp_path / "ran").exists()


def test_the_copy_lies_in_the_folder_whatever_the_command_names(tmp_path):
    write_shards(tmp_path / "far", 5)
    open_source(f"pipe:cat {tmp_path}/far/../far/train-000000.tar", fetch_to=tmp_path / "near")
    assert [path.name for path in (tmp_path / "near").iterdir()] == ["train-000000.tar"]
    assert tar_list._name_tar("https://h/x/..tar/../a.tar?token=1") == "a.tar"


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("list_of", ["{}", "https://host/b.tar::{}"])
def test_a_command_in_a_file_of_options_is_refused(tmp_path, list_of):
    config = tmp_path / "stranger.toml"
    source = list_of.format(f"pipe:touch {tmp_path}/ran; cat a.tar")
    config.write_text(f"src = '{source}'\nfetch = '{tmp_path}/near'\n")
    done = run("shard", "--config", config, "--out", tmp_path / "out")
    assert done.exit_code == 2 and "pipe: runs a command, so it has to be typed" in done.output
    assert not (tmp_path / "ran").exists()


def test_shard_converts_a_list_as_it_does_the_folder_of_the_same_tars(tmp_path):
    write_shards(tmp_path / "far")
    tars = f"{tmp_path}/far/train-{{000000..000002}}.tar"
    done = run(
        "shard", "--src", f"pipe:cat {tars}", "--fetch", tmp_path / "near", "--out", tmp_path / "a", "--workers", 1
    )
    assert done.exit_code == 0, done.output
    alexstream.shard(tars, tmp_path / "b", num_workers=1)
    alexstream.shard(tmp_path / "far", tmp_path / "c", num_workers=1)
    hashes = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / name).glob("train-*")}
        for name in "abc"
    ]
    assert hashes[0] == hashes[1] == hashes[2] and len(hashes[0]) == 3


def test_a_dry_run_fetches_nothing(tmp_path):
    done = run(
        "shard", "--src", f"pipe:touch {tmp_path}/ran; cat a.tar", "--fetch", tmp_path, "--out", "x", "--dry-run"
    )
    assert done.exit_code == 2 and "--dry-run writes nothing" in done.output
    assert list(tmp_path.iterdir()) == []


def test_only_this_module_takes_what_could_run_a_command_from_webdataset():
    loads = {
        str(path.relative_to(ROOT))
        for top in ("core", "sharding", "pipeline", "trainer", "report", "commands")
        for path in (ROOT / top).rglob("*.py")
        if re.search(r"^\s*(import|from) webdataset", path.read_text(), re.MULTILINE)
    }
    assert loads == {"sharding/sources/tars/tar_list.py"}


@pytest.mark.parametrize(
    ("text", "number"), [("x-{000000..99999999}.tar", "100,000,000"), ("{a,b}" * 40 + ".tar", "1,099,511,627,776")]
)
def test_a_list_of_more_tars_than_there_are_is_refused_before_it_is_expanded(text, number):
    with pytest.raises(SourceError, match=f"expands to {number} tars, expected 1,000,000 at most"):
        expand_tar_list(text)
