"""Archives and images that mean harm, and what is looked at after a command has met them."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

from tests.support.crafted_images import picture, png

ROOT = Path(__file__).resolve().parents[2]
MOST_MEMORY = 1 << 30
# Small itself, so that what it reports is the peak of the command and of its workers, and of nothing before.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], timeout=300).returncode
open(3, "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10))
sys.exit(code if code >= 0 else 128 - code)
"""


class Evil:
    """Pickled code: whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Grounds:
    """A folder with a source, and beside it a canary: a folder that no command has any business in."""

    def __init__(self, folder):
        self.folder, self.source, self.out, self.canary = folder, folder / "source", folder / "out", folder / "canary"
        for one in (self.source, self.canary):
            one.mkdir(parents=True)
        (self.canary / "bird").write_bytes(b"alive")
        self.executed = self.canary / "executed"

    def run(self, *words, most_memory=MOST_MEMORY):
        """Run a command; its exit code and all that it said, after looking at what it did."""
        before = self.snapshot()
        code, said, peak = measured(words, self.folder)
        after = self.snapshot()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert not changed, f"outside --out: {sorted(changed)[:5]}"
        assert peak < most_memory, f"{peak >> 20} MiB of memory"
        assert all(line.isprintable() for line in said.split("\n")), repr(said[:2000])
        assert "Traceback" not in said, said[-3000:]
        assert code in (0, 1), (code, said[-2000:])
        if code:
            assert said.rstrip("\n").split("\n")[-1].startswith("Error: "), said[-2000:]
        return code, said

    def snapshot(self):
        """Everything but --out: path → what it is and holds."""
        found = {}
        for path in self.folder.rglob("*"):
            if self.out not in (path, *path.parents):
                state = path.lstat()
                found[path] = (state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino)
        return found


def measured(words, folder):
    """Exit code, output and peak memory of a command."""
    read, write = os.pipe()
    command = [sys.executable, "-c", _MEASURED, sys.executable, str(ROOT / "cli.py"), *map(str, words)]

    def third():
        os.dup2(write, 3)

    done = subprocess.run(command, capture_output=True, cwd=folder, pass_fds=(3, write), preexec_fn=third)
    os.close(write)
    with open(read) as file:
        peak = int(file.read() or 0)
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape") + done.stderr.decode(), peak


def header(name, size, kind=b"0", linkname=b"", size_field=None):
    """A tar header as no library writes it; ``size_field``: its 12 bytes."""
    raw = bytearray(512)
    raw[: len(name)] = name
    raw[100:108], raw[108:116], raw[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    raw[124:136] = size_field or b"%011o\0" % size
    raw[136:148], raw[156:157], raw[157 : 157 + len(linkname)] = b"00000000000\0", kind, linkname
    raw[257:265] = b"ustar\00000"
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def member(name, content, **fields):
    """Header and content, padded."""
    return header(name, len(content), **fields) + content + bytes(-len(content) % 512)


def pax(records, kind=b"x"):
    """A PAX header with these records, bytes to bytes."""
    content = b""
    for key, value in records.items():
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest)
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        content += str(length).encode() + rest
    return member(b"././@PaxHeader", content, kind=kind)


END = bytes(1024)


def odd_names(canary):
    """Names that lead out of a folder, command a terminal, or are no text; all of honest images, with their PAX."""
    names = [b"../../canary/a.jpg", b"../" * 12 + b"tmp/a.jpg", str(canary / "b.jpg").encode(), b"C:\\Windows\\a.jpg"]
    names += [
        b"..\\..\\canary\\c.jpg",
        b"n01440764/../../canary/d.jpg",
        b"//canary/e.jpg",
        b"~/f.jpg",
        b"a/./b/../g.jpg",
    ]
    names += [b"n01440764/new\nline.jpg", b"n01440764/\x1b[2J\x1b]0;title\x07.jpg", b"n01440764/\xe2\x80\xaegpj.jpg"]
    names += [b"n01440764/\xff\xfe\x80.jpg", b"n01440764/\r\x08\x7f.jpg", b"n01440764/<script>alert(1)</script>.jpg"]
    names += [b"n01440764/nul\0behind.jpg", b"n01440764/" + b"x" * 1_000_000 + b".jpg", b"\x1b[31mclass/a.jpg"]
    return names


def named(name, content):
    """A member whose name is in a PAX header, where any bytes may be."""
    return pax({b"path": name}) + member(b"short", content)


def links(canary):
    """Members that are no files: links out of the archive, devices, pipes, sparse files of terabytes."""
    bird, huge = str(canary / "bird").encode(), 1 << 42
    parts = [header(b"n01440764/link.jpg", 0, b"2", bird), header(b"n01440764/hard.jpg", 0, b"1", b"../../canary/bird")]
    parts += [header(b"n01440764/up", 0, b"2", b"../../canary"), member(b"n01440764/up/through.jpg", picture(1))]
    parts += [header(f"n01440764/{kind}".encode(), 0, kind.encode()) for kind in "346"]
    old = bytearray(member(b"n01440764/sparse.jpg", picture(2), kind=b"S"))
    old[483:495] = b"\x80" + huge.to_bytes(11, "big")
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old[:512])
    sparse = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": str(huge).encode()}
    parts += [bytes(old), pax(sparse | {b"GNU.sparse.name": b"n01440764/pax.jpg"}) + member(b"x", picture(3))]
    parts += [member(b"n01440764/unknown.jpg", picture(4), kind=b"Z"), header(b"n01440764/volume", 0, b"V")]
    return parts


def wrong_sizes():
    """Headers whose size is no size that could be: what they are, and their bytes."""
    content = picture(5)
    return {
        "claims a terabyte": header(b"n01440764/a.jpg", 0, size_field=b"77777777777\0") + content,
        "base-256, 2**88": header(b"n01440764/a.jpg", 0, size_field=b"\x80" + b"\xff" * 11) + content,
        "base-256, negative": header(b"n01440764/a.jpg", 0, size_field=b"\xff" * 12) + content,
        "octal, negative": header(b"n01440764/a.jpg", 0, size_field=b"-0000001000\0") + content,
        "not octal": header(b"n01440764/a.jpg", 0, size_field=b"0x100000000\0") + content,
        "PAX of 5,000 digits": pax({b"size": b"9" * 5000}) + member(b"n01440764/a.jpg", content),
        "PAX of other digits": pax({b"size": "²".encode()}) + member(b"n01440764/a.jpg", content),
        "PAX length of 5,000 digits": member(b"h", b"9" * 5000 + b" path=a\n", kind=b"x") + member(b"a/a.jpg", content),
        "PAX header of a gigabyte": header(b"h", 0, b"x", size_field=b"%011o\0" % (1 << 30)) + content,
        "sparse map without an end": member(b"n01440764/a.jpg", b"", kind=b"S")[:482] + b"\1" + bytes(29),
    }


def bombs():
    """Images whose metadata unpack to a gigabyte, or that take minutes to decode."""
    packed = zlib.compress(bytes(1 << 28), 9)
    text, profile = (b"zTXt", b"Comment\0\0" + packed), (b"iCCP", b"icc\0\0" + packed)
    international = (b"iTXt", b"Comment\0\1\0\0\0" + packed)
    return {"ztxt": png(10, 10, text), "iccp": png(10, 10, profile), "itxt": png(10, 10, international)}


def pickled(path):
    """Bytes that make a file when they are unpickled."""
    return pickle.dumps(Evil(path))


def npy_of_objects(path):
    """A ``.npy`` file with a pickled object in it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(path)], object), allow_pickle=True)
    return buffer.getvalue()


def tar_of(names_and_contents):
    """An honest tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in names_and_contents:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
