"""What can become of the files of a finished data set: each function damages a file, or returns False if it cannot."""

import os
import shutil

from alexstream.sharding.verify import verify


def flip(path, chance, **_):
    """One bit."""
    data = bytearray(path.read_bytes())
    if not data:
        return False
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return True


def cut(path, chance, **_):
    """The end is missing."""
    size = path.stat().st_size
    if size:
        os.truncate(path, chance.randrange(size))
    return size > 0


def zeros(path, chance, **_):
    """A block of a disk came back as zeros."""
    data = path.read_bytes()
    at = chance.randrange(max(1, len(data))) // 512 * 512
    damaged = data[:at] + bytes(min(4096, len(data) - at)) + data[at + 4096 :]
    path.write_bytes(damaged)
    return damaged != data


def empty(path, chance, **_):
    """Nothing is left but the name."""
    size = path.stat().st_size
    path.write_bytes(b"")
    return size > 0


def longer(path, chance, **_):
    """Bytes behind the end, those among them that most readers pass over."""
    more = chance.choice([b"\n", b" ", b"\0", b"\r\n", b"{}", bytes(512), chance.randbytes(100)])
    path.write_bytes(path.read_bytes() + more)
    return True


def deleted(path, chance, **_):
    """It is gone."""
    path.unlink()
    return True


def twice(path, chance, **_):
    """It is there under another name too, such as the next one's."""
    name = chance.choice([f"copy of {path.name}", path.name + "~", path.name.replace("000000", "000001")])
    shutil.copy(path, path.with_name(name if name != path.name else f"{path.name}.bak"))
    return True


def unknown(path, chance, **_):
    """A file that nobody asked for."""
    names = ["notes.txt", ".DS_Store", "train-000009.part", "plan.json", "x.tmp", ".hidden", "train-000000.tar.1.tmp"]
    path.with_name(chance.choice(names)).write_bytes(chance.randbytes(10))
    return True


def other_split(path, chance, beside, **_):
    """It and the other split's file of the same kind have changed places."""
    mate = beside / path.name.replace(path.parent.name, beside.name)
    if not mate.is_file() or mate.read_bytes() == path.read_bytes():
        return False
    data, other = path.read_bytes(), mate.read_bytes()
    path.write_bytes(other)
    mate.write_bytes(data)
    return True


def other_set(path, chance, others, **_):
    """It is another data set's: of other images, or of the same with another seed or encoding."""
    theirs = chance.choice(others) / path.parent.name / path.name
    if not theirs.is_file() or theirs.read_bytes() == path.read_bytes():
        return False
    shutil.copy(theirs, path)
    return True


def folder(path, chance, **_):
    """A folder of its name."""
    path.unlink()
    path.mkdir()
    return True


def pipe(path, chance, **_):
    """A pipe of its name, which whoever reads it would wait for."""
    path.unlink()
    os.mkfifo(path)
    return True


def link_to_nothing(path, chance, **_):
    """A link whose target is gone."""
    path.unlink()
    path.symlink_to("gone")
    return True


def link_to_other(path, chance, others, **_):
    """A link to another data set's file."""
    theirs = others[0] / path.parent.name / path.name
    if not theirs.is_file() or theirs.read_bytes() == path.read_bytes():
        return False
    path.unlink()
    path.symlink_to(theirs)
    return True


DAMAGES = [
    flip, cut, zeros, empty, longer, deleted, twice, unknown, other_split, other_set, folder, pipe, link_to_nothing,
    link_to_other,
]  # fmt: skip
ADDED = (twice, unknown)  # the files of the set are what they were


def decodes_otherwise(split):
    """What docs/stream.md leaves to ``verify``: a byte of a sample that is another one and still decodes."""
    return any("sha256 differs" in finding.problem for finding in verify(split, fast=True, quiet=True).findings)
