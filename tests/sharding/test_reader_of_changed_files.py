"""Files that are not what they were when they were listed: an error that says what they are now, never fewer bytes."""

import os

import pytest

from alexstream.core.errors import BadImageError, SourceError
from alexstream.sharding.sources import reader
from alexstream.sharding.sources.reader import WHOLE_FILE, Reader
from tests.support import imagenet_miniature as mini


def test_an_archive_that_ends_within_an_image_is_named_with_the_byte(tmp_path):
    mini.write(tmp_path / "x.tar", mini.tar_bytes([("1.jpg", b"one"), ("2.jpg", b"t" * 300)]))
    assert Reader(tmp_path).read("x.tar", 512, 3).data == b"one"
    os.truncate(tmp_path / "x.tar", 1536 + 100)  # the second header lies at byte 1,024
    with pytest.raises(SourceError, match="ends at byte 1,636, within an image; it is not what it was"):
        Reader(tmp_path).read("x.tar", 1536, 300)


def test_a_pipe_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_PAUSE_S", 0)
    os.mkfifo(tmp_path / "1.jpg")
    with pytest.raises(BadImageError, match="not a regular file"):
        Reader(tmp_path).read("1.jpg", WHOLE_FILE, 0)
