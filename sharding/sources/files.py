"""Names and byte ranges of the files in a source, on a local disk or in an object store.

Everything here takes a ``Path``, or an object with the same methods (``iterdir``, ``is_dir``, ``open``), as for object
stores.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.object_store import guard_filesystem
from alexstream.core.storage import list_objects, open_descriptor, open_regular
from alexstream.core.text import count_of

# Left in folders by Windows, macOS, Synology, QNAP, fsck and image viewers; names with a leading dot are system too.
_SYSTEM_NAMES = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx",
    "$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "lost+found",
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "@__thumb", "#recycle", "#snapshot",
    "thumbnail", "thumbnails",
}  # fmt: skip
IMAGE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif", "heic", "heif"}
)
_OTHER_EXTENSION_WORDS = (
    "txt md rst csv tsv json jsonl ndjson xml yaml yml toml ini cfg log html htm css js py ipynb sh m mat npy npz pkl "
    "pickle pt pth h5 hdf5 parquet arrow feather db sqlite lst list names data-00000 pdf doc docx xls xlsx ppt pptx "
    "rtf tex bib zip gz tgz tar bz2 xz zst 7z rar md5 sha1 sha256 avi mp4 mov mkv webm mp3 wav flac lnk url"
)
_OTHER_EXTENSIONS = frozenset(_OTHER_EXTENSION_WORDS.split())
LOOP = "link that leads back to itself"  # a reason to leave it out
TEST_IMAGES = "test images, which have no labels"  # a reason to leave them out
MAX_DEPTH = 128  # of nested folders; each takes some calls, and Python allows 1,000
MAX_SMALL_BYTES = 64 << 20  # most bytes of a devkit (2.5 MB), a table, or a list of classes
_LOCAL_WINDOW, _REMOTE_WINDOW = 4096, 1 << 20


class FolderItem(NamedTuple):
    """A name in a folder. ``is_dir`` and ``inode`` follow links; ``is_link`` is true for a symbolic link.

    ``is_loop``: it is a link that leads back to itself, by way of others or not; ``is_dir`` is then false. ``inode`` is
    0 where it is not known: in object stores, and for links that lead nowhere.
    """

    name: str
    is_dir: bool
    is_link: bool
    is_loop: bool = False
    inode: int = 0


def as_path(src: str | os.PathLike[str]) -> Path:
    """Convert a source to an object with ``iterdir`` and ``open``; paths of object stores are returned as they are."""
    place: Path = src if isinstance(src, Path) or hasattr(src, "iterdir") else Path(src)  # type: ignore[assignment]
    guard_filesystem(getattr(place, "fs", None))  # a path unpickled from another process has its own client
    return place


def is_system(name: str) -> bool:
    """Return whether systems or editors leave files of this name: ``.DS_Store``, ``Thumbs.db``, ``a.jpg~``."""
    return (
        name.startswith((".", "~$"))
        or name.endswith("~")
        or (name.startswith("#") and name.endswith("#"))
        or name.lower() in _SYSTEM_NAMES
    )


def may_be_image(name: str) -> bool:
    """Return whether a file may be an image: it has no extension, or none known for another kind of file."""
    return name.lower().rpartition(".")[2] not in _OTHER_EXTENSIONS if "." in name else True


def has_system_part(path: str) -> bool:
    """Return whether any part of a path in an archive is a system name; ``.`` and ``..`` are not."""
    return any(is_system(part) and part not in (".", "..") for part in path.split("/"))


def list_items(folder: Path) -> list[FolderItem]:
    """List a folder, sorted by name. Raises SourceError if it cannot be listed."""
    try:
        if isinstance(folder, Path):
            _check_depth(folder)
            with os.scandir(folder) as entries:
                return sorted(map(_make_item, entries))
        return sorted(FolderItem(name, is_dir, False) for name, is_dir in list_objects(folder))
    except OSError as error:
        raise listing_error(folder, error) from error


def _check_depth(folder: Path) -> None:
    if len(folder.parts) > MAX_DEPTH:
        name = "/".join((*folder.parts[:8], "…", *folder.parts[-2:]))
        raise SourceError(
            f"cannot list {name}: folders nested more than {MAX_DEPTH} deep; move them out of the source and run again"
        )


def _make_item(entry: os.DirEntry[str]) -> FolderItem:
    try:
        return FolderItem(entry.name, entry.is_dir(), entry.is_symlink(), inode=_inode(entry))
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return FolderItem(entry.name, False, True, is_loop=True)


def _inode(entry: os.DirEntry[str]) -> int:
    """Return the inode of an entry or of what it links to, which costs no call that ``is_dir`` has not made."""
    if not entry.is_symlink():
        return entry.inode()
    try:
        return entry.stat().st_ino
    except OSError:
        return 0


def listing_error(folder: Path, error: OSError) -> SourceError:
    """Return the error for a folder that cannot be listed."""
    return SourceError(
        f"cannot list {folder}: {error.strerror or error}; every file must be accounted for: fix that and run again"
    )


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image's extension."""
    return name.lower().rpartition(".")[2] in IMAGE_EXTENSIONS and "." in name


def has_file(folder: Path, wanted: Callable[[str], bool]) -> bool:
    """Return whether a folder directly contains a file of a wanted name; stops at the first."""
    if not isinstance(folder, Path):
        return any(not item.is_dir and not is_system(item.name) and wanted(item.name) for item in list_items(folder))
    try:
        with os.scandir(folder) as entries:
            items = (_make_item(e) for e in entries if wanted(e.name) and not is_system(e.name))
            return any(not item.is_dir and not item.is_loop for item in items)
    except OSError as error:
        raise listing_error(folder, error) from error


def resolve_link(folder: Path, chain: Iterable[str]) -> str | None:
    """Return the real path of a linked folder; None if it contains the link or a folder of ``chain`` (a cycle)."""
    target, here = os.path.realpath(folder), os.path.realpath(folder.parent)
    return None if any(_is_within(path, target) for path in (here, *chain)) else target


class LinkFollower:
    """Follows links to folders, so that each real folder is listed once per class.

    ``reached``: real path of each class folder and followed link → the first path that led to it. ``inodes``: of the
    files that were listed, in their order.
    """

    def __init__(self) -> None:
        self.reached: dict[str, str] = {}
        self.inodes = array("Q")
        self.notices: list[str] = []
        self._of_class: set[str] = set()

    def enter(self, folder: Path, path: str) -> None:
        """Start a class whose folder, possibly a link, is listed under ``path``."""
        self._of_class = {os.path.realpath(folder)} if isinstance(folder, Path) else set()
        for target in self._of_class:
            self._note_target(target, path)

    def refusal_reason(self, folder: Path, path: str) -> str:
        """Return why the link ``folder`` is not followed; "" if it is."""
        target, here = os.path.realpath(folder), os.path.realpath(folder.parent)
        if _is_within(here, target):
            return "link to a folder that holds it"
        if any(_is_within(target, known) or _is_within(known, target) for known in self._of_class):
            return "link to a folder that is in this class already"
        self._of_class.add(target)
        self._note_target(target, path)
        return ""

    def _note_target(self, target: str, path: str) -> None:
        first = self.reached.setdefault(target, path)
        if first != path:
            self.notices.append(f"{path} and {first} lead to the same folder: its images are in both")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def walk_files(folder: Path, prefix: str, links: LinkFollower) -> Iterator[tuple[str, str]]:
    """Yield files at any depth, sorted, as ``prefix/…``, with the reason to skip each ("" for none).

    System folders, and links to folders that are not followed, are yielded like files.
    """
    for item in list_items(folder):
        path = f"{prefix}/{item.name}"
        if is_system(item.name):
            yield path, "system file"
        elif not item.is_dir:
            if not item.is_loop:
                links.inodes.append(item.inode)
            yield path, LOOP if item.is_loop else ""
        elif item.is_link and (reason := links.refusal_reason(folder / item.name, path)):
            yield path, reason
        else:
            yield from walk_files(folder / item.name, path, links)


def files_below(folder: Path, path: str, reason: str) -> list[tuple[str, str]]:
    """List the files of a folder that is left out, each with the reason; ``path`` is the folder's below the source."""
    links = LinkFollower()
    links.enter(folder, path)
    found = walk_files(folder, path, links)
    return [(file, own or (reason if may_be_image(file) else "no image by its name")) for file, own in found]


def test_notice(path: str, left: Iterable[tuple[str, str]]) -> str:
    """Say how many test images of a folder or tar are left out; ``left`` are the files, with their reasons."""
    count = sum(reason == TEST_IMAGES for _, reason in left)
    return f"{path}: left out: {count_of(count, 'test image')}, without labels"


def select_files(listed: Iterable[FolderItem], *extensions: str) -> list[str]:
    """Return the names of the files with one of ``extensions``, in any case, without system files."""
    return [i.name for i in listed if not i.is_dir and not is_system(i.name) and i.name.lower().endswith(extensions)]


def is_parquet(path: Path) -> bool:
    """Return whether a file starts with Parquet's magic bytes."""
    return read_start(path, 4) == b"PAR1"


def is_gzip(path: Path) -> bool:
    """Return whether a file starts with the magic bytes of gzip."""
    return read_start(path, 2) == b"\x1f\x8b"


def read_start(path: Path, size: int) -> bytes:
    """Return the first ``size`` bytes of a file; b"" if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(size)
    except OSError:
        return b""


class MemoryFile:
    """Bytes in memory with the interface of ``RangeFile``."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer at the end."""
        return self._data[offset : offset + size]

    peek_at = read_at


class RangeFile:
    """A file for random access: by ``pread`` on a local disk, by range requests in an object store."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError if that fails."""
        self._descriptor, self._path = -1, path
        self._remote = None if isinstance(path, Path) else path
        self._at, self._window = 0, b""
        if self._remote is None:
            self._descriptor = open_descriptor(path)
            self.size = os.fstat(self._descriptor).st_size
            # Otherwise the kernel would read ahead the images between the headers that a walk reads.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        else:
            self.size = path.stat().st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer at the end of the file."""
        if self._remote is not None:
            end = min(offset + size, self.size)
            return bytes(self._remote.fs.cat_file(self._remote.path, start=offset, end=end)) if end > offset else b""
        try:
            data = os.pread(self._descriptor, size, offset)
            while 0 < len(data) < size:
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = str(self._path)  # pread knows only the descriptor
            raise
        return data

    def peek_at(self, offset: int, size: int) -> bytes:
        """Return what ``read_at`` returns, from a buffered window: for small reads close together."""
        start = offset - self._at
        if start < 0 or start + size > len(self._window):
            window = _LOCAL_WINDOW if self._remote is None else _REMOTE_WINDOW
            self._at, self._window, start = offset, self.read_at(offset, max(size, window)), 0
        return self._window[start : start + size]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """Close the file of a worker that ends, or of a listing that is abandoned."""
        self.close()

    def __enter__(self) -> RangeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_error(path: Path, error: OSError) -> SourceError:
    return SourceError(f"cannot read {path}: {error.strerror}; run the same command again when it can be read")


def open_range_file(path: Path) -> RangeFile:
    """Open a ``RangeFile``. Raises SourceError if that fails."""
    try:
        return RangeFile(path)
    except OSError as error:
        raise _read_error(path, error) from error


def read_small_file(path: Path) -> bytes:
    """Read a whole file of at most SMALL bytes. Raises SourceError if it cannot be read, or is larger."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_SMALL_BYTES + 1)
    except OSError as error:
        raise _read_error(path, error) from error
    if len(data) > MAX_SMALL_BYTES:
        raise SourceError(
            f"cannot read {path}: larger than the {MAX_SMALL_BYTES >> 20} MiB that any list or table takes"
        )
    return data
