"""A source that changes while it is converted: the set is that of one moment, or the conversion says so and ends."""

import io
import os
import shlex
import shutil
import subprocess
import tarfile

import pytest

from alexstream.sharding.dataset_v1 import layout
from tests.faults.conversion import convert, make_source, undisturbed
from tests.faults.sources import draw
from tests.faults.syscall_faults import SyscallFault
from tests.support.comparisons import file_hashes

PROMISE = "a source that changes is never converted to a mix of before and after"
# What is done to a file {it}; {other} is another image, {old} a file with the old times.
CHANGES = {
    "replaced": "cp {other} {it}.new; mv {it}.new {it}",
    "written over": "cat {other} > {it}",
    "written over, given back its time": "cat {other} > {it}; touch -r {old} {it}",
    "replaced, given back its time": "cp {other} {it}.new; touch -r {old} {it}.new; mv {it}.new {it}",
    "cut": "truncate -s 100 {it}",
    "emptied": ": > {it}",
    "deleted": "rm {it}",
    "grown": "cat {other} >> {it}",
    "made a folder": "rm {it}; mkdir {it}",
    "made a link": "rm {it}; ln -s {other} {it}",
    "made a pipe": "rm {it}; mkfifo {it}",
}


def command(change, it, other, old):
    names = {"it": it, "other": other, "old": old}
    return "sh " + CHANGES[change].format(**{name: shlex.quote(str(path)) for name, path in names.items()})


def changed_at(tmp_path, chance, change, watched, at):
    """A fault that changes two files of the source at a call of the conversion."""
    source = tmp_path / "src"
    both = chance.sample(sorted(source.glob("class*/0*.png")), 2)  # one may be read before the change, one after
    acts = [command(change, it, tmp_path / "other.png", tmp_path / "old")[3:] for it in both]
    calls = "look,read" if watched == source else "open,write,fsync,rename,mkdir"
    return SyscallFault(tmp_path / "notes", watched, "sh " + "; ".join(acts), at, calls=calls)


@pytest.mark.promise(PROMISE, fault="two files {change} at any call on source or output", short=2, long=60)
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_change_at_any_moment_are_taken_at_one_moment_or_the_conversion_ends(change, trials, tmp_path):
    fresh, source, folder = draw(tmp_path / "fresh", 12), tmp_path / "src", tmp_path / "out"
    shutil.copy(draw(tmp_path / "others", 1, seed=9) / "class0" / "0000.png", tmp_path / "other.png")
    for chance in trials:
        for path in (source, folder):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(fresh, source)
        shutil.copy2(next(source.glob("class0/0*.png")), tmp_path / "old")
        watched = chance.choice([source, folder])
        fault = changed_at(tmp_path, chance, change, watched, chance.randint(1, 60))
        done = convert(source, folder, fault=fault)
        if done.code:
            assert "run the same command again" in done.error and str(source) in done.error, done.error
            assert not layout.is_dataset(folder)
            again = convert(source, folder)
            if again.code:  # what is listed now is another source
                assert "unfinished conversion of another source" in again.error, again.error
                shutil.rmtree(folder)
                assert convert(source, folder).code == 0
        assert_of_one_moment(source, fresh, folder, tmp_path)


def assert_of_one_moment(source, fresh, folder, tmp_path):
    """The set is what the source gives now, or, for a change after the last look, what it gave before."""
    found = file_hashes(folder)
    now = undisturbed(source, tmp_path / "out", "--split", "train") if not shutil.rmtree(folder) else None
    if found["train-000000.tar"] == now["train-000000.tar"]:
        return
    shutil.rmtree(source)
    shutil.copytree(fresh, source)
    assert found == undisturbed(source, folder)


@pytest.mark.promise(
    PROMISE, fault="a file {change} between a killed conversion and its continuation", short=1, long=20
)
@pytest.mark.parametrize("change", [c for c in CHANGES if c not in ("deleted", "made a folder")])
def test_a_file_that_changed_since_the_kill_is_taken_as_it_is_now(change, trials, tmp_path):
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    shutil.copy(draw(tmp_path / "others", 1, seed=9) / "class0" / "0000.png", tmp_path / "other.png")
    shutil.copy2(next(source.glob("class0/0*.png")), tmp_path / "old")
    for chance in trials:
        it = chance.choice(sorted(source.glob("class*/00*.png")))
        shutil.copy2(it, tmp_path / "kept")
        watch = SyscallFault(tmp_path / "notes", folder)
        undisturbed(source, folder, fault=watch)
        quarantine = next(c.number for c in watch.calls() if "quarantine" in c.path)
        assert (
            convert(source, folder, fault=SyscallFault(tmp_path / "notes", folder, "signal 9", quarantine)).code == -9
        )
        subprocess.run(["sh", "-c", command(change, it, tmp_path / "other.png", tmp_path / "old")[3:]], check=True)
        assert convert(source, folder).code == 0
        found = file_hashes(folder)
        shutil.rmtree(folder)
        assert found == undisturbed(source, folder)
        it.unlink()
        shutil.copy2(tmp_path / "kept", it)


@pytest.mark.promise(PROMISE, fault="an archive {change} between listing and reading", short=1, long=15)
@pytest.mark.parametrize("change", ["another order", "cut", "deleted", "other archive"])
def test_an_archive_that_changes_after_it_was_listed_ends_the_conversion(change, trials, tmp_path):
    for chance in trials:
        source, folder = tmp_path / f"src{trials.number}", tmp_path / f"out{trials.number}"
        images = sorted(draw(tmp_path / "images", 12, side=chance.randint(30, 60)).glob("*/0*.png"))
        source.mkdir()
        tar = source / "train-000000.tar"
        write_tar(tar, images)
        shutil.copy(tar, tmp_path / "whole.tar")
        write_tar(tmp_path / "other.tar", images[::-1] if change == "another order" else images[1:])
        act = {"cut": f"truncate -s 20000 {tar}", "deleted": f"rm {tar}"}.get(change, f"mv {tmp_path}/other.tar {tar}")
        fault = SyscallFault(tmp_path / "notes", folder, f"sh {act}", 3)  # the plan is being written
        done = convert(source, folder, fault=fault)
        assert done.code == 1 and str(tar) in done.error and "when it was listed" in done.error, done
        assert not layout.is_dataset(folder)
        shutil.copy(tmp_path / "whole.tar", tar)
        assert convert(source, folder).code == 0
        found = file_hashes(folder)
        shutil.rmtree(folder)
        same_as = undisturbed(source, folder)
        assert found == same_as


def write_tar(path, images):
    """A WebDataset tar."""
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            tar.add(image, f"{image.stem}.png")
            label = path.with_name("label")
            label.write_text(f"{number % 2}")
            tar.add(label, f"{image.stem}.cls")
            label.unlink()


def renumbered(source, fault=None):
    """The environment of a file system that makes up inode numbers and times of change whenever it is asked."""
    return {"EDGE_RENUMBER": str(source), **(fault.environment if fault else {})}


def is_one_note(done, source):
    assert done.code == 0, done.stderr
    assert done.stderr.startswith(f"NOTE {source}") and done.stderr.count("\n") == 1, done.stderr
    assert "inode number or time of change" in done.stderr


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_inode_numbers_that_do_not_last_are_said_once_and_the_work_goes_on(form, tmp_path):
    source, folder = make_source(form, tmp_path), tmp_path / "out"
    watch = SyscallFault(tmp_path / "notes", folder)
    expected = undisturbed(source, folder, fault=watch)
    is_one_note(convert(source, folder, **renumbered(source)), source)
    assert file_hashes(folder) == expected
    shutil.rmtree(folder)
    quarantine = next(c.number for c in watch.calls() if "quarantine" in c.path)
    killed = SyscallFault(tmp_path / "notes", folder, "signal 9", quarantine)
    assert convert(source, folder, **renumbered(source, killed)).code == -9
    is_one_note(convert(source, folder, **renumbered(source)), source)
    assert file_hashes(folder) == expected


def of_equal_sizes(path, colours, labels):
    """A WebDataset tar of images of 108 bytes each, so that nothing but content tells one version from another."""
    with tarfile.open(path, "w") as tar:
        for number, (colour, label) in enumerate(zip(colours, labels, strict=True)):
            data = b"P6 5 5 255\n" + bytes([colour, number, 0]) * 25
            for name, content in ((f"{number}.ppm", data), (f"{number}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    os.utime(path, (10**9, 10**9))


@pytest.mark.parametrize("moment", ["plan.json", ".part"])
@pytest.mark.parametrize("changed", ["images", "labels", "size", "time"])
def test_an_archive_that_was_replaced_is_an_error_where_inode_numbers_do_not_last_too(changed, moment, tmp_path):
    """With the old size and time: by an image's bytes, or by what it is listed as.

    ``plan.json``: after it was listed, before it is read; ``.part``: after it was read, before the last look.
    """
    source, folder, other = tmp_path / "train-000000.tar", tmp_path / "out", tmp_path / "other.tar"
    of_equal_sizes(source, range(12), [0, 1] * 6)
    watch = SyscallFault(tmp_path / "notes", folder)
    undisturbed(source, folder, fault=watch)
    count = 13 if changed == "size" else 12
    colours = range(100, 112) if changed == "images" else range(count)
    of_equal_sizes(other, colours, [1 - n % 2 if changed == "labels" else n % 2 for n in range(count)])
    if changed == "time":
        os.utime(other, (10**9, 10**9 + 1))
    elif changed == "size":
        other.write_bytes(other.read_bytes() + bytes(10240))
        os.utime(other, (10**9, 10**9))
    at = next(c.number for c in watch.calls() if moment in c.path)
    fault = SyscallFault(tmp_path / "notes", folder, f"sh mv {other} {source}", at)
    done = convert(source, folder, **renumbered(source, fault))
    read_afterwards = changed == "images" and moment == "plan.json"  # of the new version, all of them
    if read_afterwards or (changed == "time" and moment == ".part"):
        assert done.code == 0, done.stderr
        found = file_hashes(folder)
        shutil.rmtree(folder)
        assert found == undisturbed(source, folder)
        return
    assert done.code == 1 and str(source.parent) in done.error and "run the same command again" in done.error
    assert not layout.is_dataset(folder)
