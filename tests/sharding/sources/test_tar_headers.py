"""Headers of tars byte by byte: what other programs write that ``tarfile`` does not, and sizes that cannot be."""

import tarfile

import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import MemoryFile
from alexstream.sharding.sources.tars.walk import walk_tar
from tests.support.imagenet_miniature import tar_bytes


def header(name, size=0, kind=b"0"):
    """A USTAR header by the standard library."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return bytearray(info.tobuf(tarfile.USTAR_FORMAT))


def with_checksum(block, *, signed=False):
    """The header with its checksum right: the sum of its bytes, the checksum's own counted as spaces."""
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def walked(data, **bounds):
    return [(m.name, m.offset, m.size) for m in walk_tar(MemoryFile(data), "x.tar", **bounds)]


def test_checksums_of_signed_bytes_are_right_too():
    block = header("plain")
    block[:6] = "müll".encode() + b"\0"
    for signed in (False, True):
        assert walked(with_checksum(block, signed=signed) + bytes(1024)) == [("müll", 512, 0)]


def test_a_folder_of_one_letter_in_the_prefix_belongs_to_the_name():
    name = "a/" + "b" * 99  # one byte too long for the field of names
    data = tar_bytes([(name, b"1")], format=tarfile.USTAR_FORMAT)
    assert data[345:347] == b"a\0"
    assert [found for found, _, _ in walked(data)] == [name]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_for_the_next_that_claims_more_than_any_name_takes_is_refused(kind):
    block = with_checksum(header("next", 2 << 20, kind))
    with pytest.raises(SourceError, match=r"at byte 0 describes the next in 2,097,152 bytes"):
        walked(block + bytes(3 << 20))


def test_a_tar_within_a_file_ends_where_it_should_though_the_file_goes_on():
    inner = tar_bytes([("a", b"1"), ("b", b"2")])
    with pytest.raises(SourceError, match="ends at byte 1,124 inside a header, after 'a'"):
        walked(inner, end=1124)  # the header of b lies at 1,024, and all of it is there


@pytest.mark.parametrize("size", [b"-0000000512\0", b"00000000008\0", b"0x000000020\0", b"+0000000010\0"])
def test_a_size_that_is_no_octal_number_is_refused(size):
    """Python's ``int`` would take a sign: a walk that steps back never ends."""
    block = header("one", 1)
    block[124:136] = size
    with pytest.raises(SourceError, match="the header at byte 0 has no valid size"):
        walked(with_checksum(block) + bytes(1536))
