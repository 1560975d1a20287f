"""Locations of data sets, a local folder or an object store (``s3://bucket/train``), and atomic writes to them.

Text is converted to a ``pathlib.Path`` or, for an object store, a ``upath.UPath`` with the same methods; the rest of
the stage does not distinguish them. Files appear complete or not at all: an object store shows an object when its last
byte has arrived, a folder when the file is renamed into place.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from alexstream.core.errors import AlexstreamError, OutputError
from alexstream.core.object_store import guard_filesystem, list_store_folder

# Stores that show an object complete or not at all. memory:// is per process, for tests.
_OBJECT_STORES = ("s3", "gs", "az", "abfs", "memory")
# Packages whose exceptions come from a store's client; those without an own type raise OSError.
_CLIENT_PACKAGES = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "azure", "s3fs")
# Errors by which file systems report that folders cannot be synced: Linux returns EINVAL where a file system lacks the
# operation (9p, AFS, vboxsf, older CIFS), FUSE passes on its server's error, and some network file systems refuse it on
# a read-only descriptor, the only kind that a folder has. Anything else (EIO, ENOSPC, EDQUOT) means that names may be
# lost.
_NO_SYNC_ERRNOS = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
# The suffix of Pending's temporary files; earlier versions used their process number.
_TEMPORARY_NAME = re.compile(r"(.+)\.(?:[0-9a-f]{8}|\d{1,7})\.tmp", re.DOTALL)
_FOLDER_MARK = "_$folder$"  # suffix of Hadoop's folder markers; the usual marker is an object whose name ends in "/"


def parse_location(text: str) -> Path:
    """Parse a location: ``s3://bucket/folder`` and the like, or a local path.

    Keys, endpoint and region come from the store's usual configuration (for S3: ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL`` …). Raises AlexstreamError for an unknown kind of store, or one
    whose library is not installed.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme == "file":
        return Path(urlsplit(text).path)
    if scheme not in _OBJECT_STORES:
        raise AlexstreamError(
            f"{text}: unknown kind of store; give a folder, or one of {_format_schemes(_OBJECT_STORES)}"
        )
    if not rest.strip("/"):
        raise AlexstreamError(f"{text} names no bucket; give {scheme}://BUCKET/FOLDER")
    try:
        from upath import UPath

        # The listings cache would hide what other processes write and delete.
        path = UPath(text.rstrip("/"), use_listings_cache=False)
        guard_filesystem(path.fs)  # also imports the store's library
    except ImportError as error:
        remedy = "pip install alexstream[s3]" if scheme in ("s3", "memory") else str(error)
        raise AlexstreamError(f"{text}: the library for {scheme}:// is not installed; {remedy}") from error
    return cast(Path, path)


def is_store_error(error: Exception) -> bool:
    """Return whether an object store's client raised ``error``: no bucket, no keys, no connection."""
    return type(error).__module__.partition(".")[0] in _CLIENT_PACKAGES


def read_small(path: Path, most: int) -> bytes:
    """Read a whole file at any location. Raises OSError if that fails, or it has more than ``most`` bytes."""
    is_local = isinstance(path, Path)
    size = path.stat().st_size
    if size <= most:
        try:
            data = _read_up_to(path, most + 1) if is_local else _read_range(path, size)
        except TimeoutError as error:
            raise OSError(f"the store did not send it in time, {size:,} bytes") from error
        if len(data) <= most:
            return data
    raise OSError(errno.EFBIG, f"it has more than {most:,} bytes, the limit for such a file", str(path))


def open_regular(path: Path) -> BinaryIO:
    """Open a file at any location to read bytes. Raises OSError if it is no regular file.

    A pipe would be waited for, and a device may have no end, whatever their names promise.
    """
    if not isinstance(path, Path):
        return cast(BinaryIO, path.open("rb"))
    return open(open_descriptor(path), "rb")


def open_descriptor(path: str | Path) -> int:
    """Open a local regular file as a descriptor. Raises OSError, of errno ENXIO if it is anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", str(path))
    return descriptor


def _read_up_to(path: Path, size: int) -> bytes:
    """At most ``size`` bytes."""
    with open_regular(path) as file:  # reading takes memory for all that is asked for
        return file.read(min(size, os.fstat(file.fileno()).st_size + 1))


def _read_range(path: Any, size: int) -> bytes:
    guard_filesystem(path.fs)  # a path unpickled from another process has its own client
    return bytes(path.fs.cat_file(path.path, start=0, end=size)) if size else b""


_CHECKED_STREAMS: dict[Path, BinaryIO] = {}  # opened by ``check_target``


class PendingFile:
    """A file being written, which appears under its name, complete, at ``commit``; or not at all.

    An existing device or pipe under that name is written to directly. A link, or anything else that is not a regular
    file, is refused: neither it nor its target is replaced.
    """

    def __init__(self, path: Path) -> None:
        """Open a temporary file: beside ``path``, or on this machine if ``path`` is in an object store.

        Raises OSError if that fails, or if ``path`` is a link or not a regular file.
        """
        self._path = path
        self._local = isinstance(path, Path)
        self._tmp: Path | None = None
        if not self._local:
            self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - without a name, so a kill leaves nothing
        elif _is_stream(path):
            self.file = _open_stream(path)
        else:
            self._tmp, self.file = _open_temporary(path)

    def commit(self) -> None:
        """Publish what was written: fsync and rename it, or upload it as one object."""
        self.file.flush()
        if not self._local:
            self._send()
        elif self._tmp is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._tmp, self._path)
            fsync_folder(self._path.parent)

    def _send(self) -> None:
        try:
            here = f"/proc/self/fd/{self.file.fileno()}"
            self._path.fs.put_file(here, self._path.path)  # type: ignore[attr-defined]
        except Exception as error:  # each store's client has its own exception types
            raise _write_error(self._path, error) from error

    def discard(self) -> None:
        """Delete what was written, unless it has been committed."""
        try:
            self.file.close()  # flushes, which fails again on a full disk
        finally:
            if self._tmp is not None:
                self._tmp.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Create a new file beside ``path``; return its path and the open file.

    The name is random and must be free: a link planted there is not followed, and a worker that outlived its killed
    parent does not write to its successor's file.
    """
    tmp = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return tmp, open(os.open(tmp, flags, 0o666), "wb")


def _is_stream(path: Path) -> bool:
    """Return whether ``path`` is a device or pipe, to be written to directly; false for a file or nothing.

    ``/dev/stdout`` and the like are links to one. Raises OSError for what must be neither written to nor replaced:
    other links, block devices, sockets.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return True
    if path.is_symlink():
        to = os.path.realpath(path)
        raise OSError(errno.ELOOP, f"it is a link to {to}, which is not followed; name that file, or remove the link")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # os.replace refuses a folder later
        raise OSError(errno.EINVAL, "it is there and is neither a file, a pipe nor a character device; name a file")
    return False


def _open_stream(path: Path) -> BinaryIO:
    if path in _CHECKED_STREAMS:
        return _CHECKED_STREAMS.pop(path)
    # Without O_NONBLOCK, opening a pipe without a reader would block for ever.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.ENXIO, "no process reads from this pipe; start its reader first, or name a file") from error
    os.set_blocking(descriptor, True)
    return open(descriptor, "wb")


def target_name(temporary: str) -> str | None:
    """Return the name that a temporary file of ``PendingFile`` was to get; None if ``temporary`` is no such name."""
    found = _TEMPORARY_NAME.fullmatch(temporary)
    return None if found is None else found[1]


def fsync_folder(folder: Path) -> None:
    """Sync the names in a local folder to disk: without it, a power loss may undo a rename.

    Does nothing where folders cannot be synced, or where the folder is writable but not readable and so cannot be
    opened. File contents are synced separately, and there every failure is an error.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC_ERRNOS:
            raise
    finally:
        os.close(descriptor)


def list_folder(folder: Path) -> list[Path]:
    """List the paths in a folder at any location, unordered. Raises OSError if that fails.

    In an object store, a folder that is not found is empty.
    """
    if isinstance(folder, Path):
        return list(folder.iterdir())
    try:
        return [folder / name for name, _ in list_objects(folder)]
    except FileNotFoundError:
        return []


def list_objects(folder: Path) -> list[tuple[str, bool]]:
    """List a folder of an object store, as (name, is a folder), in one listing without wildcards.

    Empty objects that mark a folder (``dir/`` from web consoles, ``dir_$folder$``) are left out. Raises OSError if
    there is no such folder.
    """
    listed = list_store_folder(folder.fs, folder.path)  # type: ignore[attr-defined]
    return [(one.name, one.is_dir) for one in listed if not (one.name.endswith(_FOLDER_MARK) and not one.num_bytes)]


def delete_file(path: Path) -> None:
    """Delete a file, if it exists; ``path`` is not a pattern. Raises OSError if that fails."""
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


@contextmanager
def open_pending(path: Path) -> Iterator[PendingFile]:
    """Open a file that appears at ``path`` if it is committed, and leaves nothing behind if it is not.

    Raises OutputError if it cannot be written (full, read-only, no permission, not reachable).
    """
    try:
        write = PendingFile(path)
        try:
            yield write
        finally:
            write.discard()
    except OSError as error:
        raise _write_error(path, error) from error


def publish_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that it appears complete or not at all. Raises OutputError as ``open_pending``."""
    with open_pending(path) as write:
        write.file.write(data)
        write.commit()


def check_target(path: Path) -> None:
    """Raise OutputError if ``publish_file`` would refuse ``path``; called before long work.

    A device or pipe stays open for the ``publish_file`` that follows: closing it would end the pipe's reader.
    """
    try:
        if isinstance(path, Path) and _is_stream(path):
            _CHECKED_STREAMS[path] = _open_stream(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _write_error(path: Path, error: Exception) -> OutputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return OutputError(
        f"cannot write {path}: {reason.splitlines()[0]}; what is finished is kept: run the same command again"
    )


def _format_schemes(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)
