"""Tars read by their headers alone: what tarfile finds is found, what it would pass over is named."""

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import RangeFile
from alexstream.sharding.sources.tars.walk import is_tar, walk_tar
from tests.support.imagenet_miniature import tar_bytes


def walked(path, **options):
    with RangeFile(path) as file:
        return [(m.name, m.offset, m.size, m.reason) for m in walk_tar(file, "x.tar", **options)]


def by_tarfile(path):
    with tarfile.open(path) as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


NAMES = st.text("abÄß/.n0_ ", min_size=1, max_size=300).filter(
    lambda name: name.strip("/") == name and not os.path.basename(name).startswith(".")
)
FORMATS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(max_examples=60, deadline=None)
@given(members=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), min_size=1, max_size=8), form=FORMATS)
def test_the_walk_equals_tarfiles_own_listing(tmp_path_factory, members, form):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(tar_bytes(members, format=form))
    assert [row[:3] for row in walked(path)] == by_tarfile(path)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_whole(tmp_path, form):
    name = "a" * 90 + "/" + "b" * 60 if form == tarfile.USTAR_FORMAT else "a" * 400 + "/ü" + "b" * 60
    (tmp_path / "x.tar").write_bytes(tar_bytes([(name, b"1"), ("short", b"2")], format=form))
    assert [row[0] for row in walked(tmp_path / "x.tar")] == [name, "short"]


def test_a_pax_header_for_all_members_holds_until_the_end(tmp_path):
    data = tar_bytes([("a", b"1"), ("b", b"22")], format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"})
    (tmp_path / "x.tar").write_bytes(data)
    assert [row[:3] for row in walked(tmp_path / "x.tar")] == by_tarfile(tmp_path / "x.tar")


def test_links_and_devices_are_named_and_folders_are_not(tmp_path):
    rows = [("file", b"data")]
    for name, kind in [("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "file"
        rows.append((info, b""))
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    rows += [(folder, b""), ("folder/last", b"x")]
    (tmp_path / "x.tar").write_bytes(tar_bytes(rows))
    assert [(row[0], row[3]) for row in walked(tmp_path / "x.tar")] == [
        ("file", ""),
        ("soft", "symbolic link to 'file'"),
        ("hard", "hard link to 'file'"),
        ("pipe", "pipe"),
        ("folder/last", ""),
    ]


def test_a_tar_in_a_tar_is_a_range(tmp_path):
    inner = tar_bytes([("a", b"first"), ("b", b"second")])
    (tmp_path / "x.tar").write_bytes(tar_bytes([("pad", b"z" * 700), ("inner.tar", inner)]))
    _, (_, offset, size, _) = walked(tmp_path / "x.tar")
    found = walked(tmp_path / "x.tar", start=offset, end=offset + size)
    data = (tmp_path / "x.tar").read_bytes()
    assert [data[o : o + s] for _, o, s, _ in found] == [b"first", b"second"]


@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 5119))
def test_a_tar_cut_anywhere_before_its_end_mark_is_an_error_with_the_byte(tmp_path_factory, where):
    path = tmp_path_factory.mktemp("cut") / "x.tar"
    data = tar_bytes([("a", b"1" * 1000), ("b", b"2" * 2000)])  # 512 + 1024 + 512 + 2048, then zeros
    path.write_bytes(data[: min(where, 4095)])
    with pytest.raises(SourceError, match=f"ends at byte {min(where, 4095):,}|no valid tar header"):
        walked(path)


def test_a_tar_that_ends_without_its_mark_says_how_to_vouch_for_it(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([("a", b"1" * 512)])[:1024])
    with pytest.raises(SourceError, match=r"truncate -s \+1024"):
        walked(path)
    os.truncate(path, 2048)
    assert len(walked(path)) == 1


def test_a_damaged_header_is_an_error_with_its_byte(tmp_path):
    data = bytearray(tar_bytes([("a", b"1" * 512), ("b", b"2")]))
    data[1024 + 3] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(SourceError, match="at byte 1,024, after 'a'"):
        walked(tmp_path / "x.tar")


def test_a_second_archive_behind_the_first_is_not_lost_silently(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_bytes([("a", b"1")]) + tar_bytes([("b", b"2")]))
    with pytest.raises(SourceError, match="second archive begins at byte 10,240"):
        walked(tmp_path / "x.tar")


def test_hostile_names_are_only_words(tmp_path):
    names = ["/etc/passwd", "../../up", "line\nbreak", "n\udcff"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    assert [row[0] for row in walked(tmp_path / "x.tar")] == names


def test_sizes_beyond_octal_are_read(tmp_path):
    info = tarfile.TarInfo("big")
    info.size = 9 << 30
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 512 + (9 << 30) + 1024)
    assert walked(path) == [("big", 512, 9 << 30, "")]


def test_a_web_page_is_no_tar(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>" * 200)
    with RangeFile(tmp_path / "x.tar") as file:
        assert not is_tar(file)


def test_a_tar_cut_off_inside_a_member_names_it(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_bytes([("a", b"1" * 1000), ("b", b"2" * 2000)])[:3000])
    with pytest.raises(SourceError, match="ends at byte 3,000 inside 'b', which goes to byte 4,048"):
        walked(tmp_path / "x.tar")
