"""Expand lists of tars as webdataset writes them, and fetch those that only a command or a web server can give.

Input: ``shards/train-{000000..000146}.tar``, ``a.tar::b.tar``, ``${SHARDS}/a.tar`` (for ``WDS_SHARDS``), on disk or in
an object store; or ``pipe:COMMAND`` and web addresses, likewise. Output: a folder and the tars in it.

webdataset expands the list and opens the streams. A stream can be read only once and from its beginning, but a
conversion reads byte ranges, and again after an interruption; so streams are first copied to a folder. Lists come from
the caller alone. Nothing that lies in a source is read as one, because ``pipe:`` runs a shell command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.progress import progress_bar
from alexstream.core.storage import open_pending, parse_location

# Those that webdataset opens and that are no object store of ours, which would be read in place.
_STREAM = re.compile(r"(pipe|https?|ftps|sftp|scp|ais|hf):")
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")
_MAX_TARS = 1_000_000  # names in a list; 14 million images in tars of 1,000 are 14,000
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_TAR_NAME = re.compile(r"(?<![\w.-])\w[\w.-]*\.tar(?![\w.-])")
_COPY_BYTES = 1 << 20


class TarList(NamedTuple):
    """The folder that holds all tars of a list, and their paths below it; no tars for a source that is no list."""

    folder: Path
    tars: tuple[str, ...] = ()


def is_tar_list(text: str) -> bool:
    """Return whether a source is a list of tars; a local file or folder of that very name is not."""
    if _STREAM.match(text) or "::" in text or _BRACES.search(text) or _VARIABLE.search(text):
        return "://" in text or not os.path.lexists(text)
    return False


def runs_command(text: str) -> bool:
    """Return whether fetching the tars of a list would run shell commands that stand in it."""
    return any(one.startswith("pipe:") for one in text.split("::"))


def open_source(text: str, *, fetch_to: Path | None = None, quiet: bool = True) -> TarList:
    """Return the location of a source, or the folder and the tars of a list; streams are copied to ``fetch_to``.

    Raises SourceError for a list that cannot be expanded, whose tars lie in several places, that names a tar twice,
    or whose streams cannot be read; AlexstreamError for an unusable object store.
    """
    if not is_tar_list(text):
        return TarList(parse_location(text))
    urls = expand_tar_list(text)
    streams = [url for url in urls if _STREAM.match(url)]
    if not streams:
        return _find_folder(text, urls)
    if len(streams) < len(urls):
        other = next(url for url in urls if url not in streams)
        raise SourceError(f"{text}: {other} is read in place, but {streams[0]} is fetched first; give one kind alone")
    if fetch_to is None:
        raise SourceError(
            f"{streams[0]}: can be read only once, so it is copied first; give `fetch_to` FOLDER for the tars"
        )
    names = [_name_tar(url) for url in urls]
    _check_unique(text, names)
    _fetch(urls, names, fetch_to, quiet=quiet)
    return TarList(fetch_to, tuple(names))


def expand_tar_list(text: str) -> list[str]:
    """Return the tars of a list, in its order: split at ``::``, variables and braces expanded, as webdataset does.

    Raises SourceError for unbalanced braces, unknown variables, and more tars than any data set has.
    """
    from webdataset.shardlists import expand_urls  # loads torch, which a source that is no list need not wait for

    unset = [name for name in _VARIABLE.findall(text) if f"WDS_{name}" not in os.environ]
    if unset:
        raise SourceError(
            f"{text}: the environment variable WDS_{unset[0]} is not set; set it, or write what it is for"
        )
    urls: list[str] = []
    for typed in text.split("::"):
        if (number := _count_names(typed)) > _MAX_TARS:
            raise SourceError(f"{text}: expands to {number:,} tars, expected {_MAX_TARS:,} at most; give them in parts")
        try:
            found = expand_urls(typed)
        except (AssertionError, ValueError) as error:
            raise SourceError(f"{text}: cannot be expanded ({error}); write for example a-{{000..146}}.tar") from error
        other = next((url for url in found if _kind_of(url) not in ("", _kind_of(typed))), None)
        if other is not None:  # a command or an address counts only where the list itself says so
            raise SourceError(f"{text}: expands to {other}; write {_kind_of(other)}: itself in the list")
        urls += found
    return urls


def _count_names(typed: str) -> int:
    """Return how many names the braces of a list make, by its innermost braces: at least that many."""
    number = 1
    for braces in _BRACES.findall(typed):
        ends = re.fullmatch(r"\{(-?\d{1,18})\.\.(-?\d{1,18})\}", braces)
        number *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else braces.count(",") + 1
    return number


def _kind_of(url: str) -> str:
    match = _STREAM.match(url)
    return match[1] if match else ""


def _find_folder(text: str, urls: Sequence[str]) -> TarList:
    """Return the deepest folder that holds all tars of a list."""
    schemes = {url.partition("://")[0] if "://" in url else "" for url in urls}
    if len(schemes) > 1:
        raise SourceError(f"{text}: tars in several places ({', '.join(sorted(schemes))}); give those of one place")
    scheme = schemes.pop()
    paths = [PurePosixPath(url.partition("://")[2] if scheme else os.path.abspath(url)) for url in urls]
    folder = os.path.commonpath([path.parent for path in paths])
    names = [str(path.relative_to(folder)) for path in paths]
    _check_unique(text, names)
    return TarList(parse_location(f"{scheme}://{folder}" if scheme else folder), tuple(names))


def _check_unique(text: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise SourceError(f"{text}: names {twice} twice; give every tar once")


def _name_tar(url: str) -> str:
    """Return the file name of the tar that a command or address speaks of. Raises SourceError unless it is clear."""
    found: set[str] = set(_TAR_NAME.findall(url))
    if len(found) != 1:
        raise SourceError(
            f"{url}: expected the name of one .tar in it, found {len(found)}; the copy is named for it, so write a "
            "command that has that name, or fetch the tars yourself"
        )
    return found.pop()


def _fetch(urls: Sequence[str], names: Sequence[str], folder: Path, *, quiet: bool) -> None:
    """Copy streams to files in ``folder``, each complete or not at all; leave alone those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(url, folder / name) for url, name in zip(urls, names, strict=True) if not (folder / name).exists()]
    with progress_bar(len(missing), "tars", "fetch", quiet=quiet) as bar:
        for url, path in missing:
            _fetch_one(url, path)
            bar.update()


def _fetch_one(url: str, path: Path) -> None:
    with open_pending(path) as write:
        for data in _read_stream(url):
            write.file.write(data)
        write.commit()


def _read_stream(url: str) -> Iterator[bytes]:
    """Yield what a command or a server sends. Raises SourceError unless it ends well."""
    from webdataset.gopen import gopen

    try:
        with closing(gopen(url, "rb")) as stream:
            while data := stream.read(_COPY_BYTES):
                yield data
        # webdataset lets some exit codes pass, since it may stop early; what is read to its end has to end well.
        if status := getattr(stream, "status", 0):
            raise OSError(f"exit code {status}")
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"cannot fetch {url}: {error}; run the same command again when it can be read") from error
