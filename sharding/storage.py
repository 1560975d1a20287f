"""Places that hold a data set: a folder of this machine, or one of an object store (``s3://bucket/train``).

Text goes in, a path comes out: ``pathlib.Path`` or, for an object store, ``upath.UPath``, which joins, lists, reads
and writes by the same names; the rest of the stage takes the one for the other. Whoever writes through here leaves
whole files: an object store shows an object when its last byte has arrived, a folder when a complete file is renamed
into place.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from sharding.errors import AlexstreamError, OutputError

# Stores that show an object whole or not at all. memory:// lives and dies with its process: for tests.
_OBJECT_STORES = ("s3", "gs", "az", "abfs", "memory")
# Whose exceptions are a store's; what they have no words for comes as OSError.
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "azure", "s3fs")


def location(text: str) -> Path:
    """The place that ``text`` names: ``s3://bucket/folder`` and its like, or a local path.

    Keys, endpoint and region come from where the store's own tools take them (for S3: ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL`` …). Raises AlexstreamError for an unknown kind of store, or one
    whose library is not installed.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme == "file":
        return Path(urlsplit(text).path)
    if scheme not in _OBJECT_STORES:
        raise AlexstreamError(f"{text}: no known kind of store; give a folder, or one of {_listed(_OBJECT_STORES)}")
    if not rest.strip("/"):
        raise AlexstreamError(f"{text} names no bucket; give {scheme}://BUCKET/FOLDER")
    try:
        from upath import UPath

        # Without a listing of its own, which would hide what other processes write and delete.
        path = UPath(text.rstrip("/"), use_listings_cache=False)
        _ = path.fs  # loads the store's library
    except ImportError as error:
        remedy = "pip install alexstream[s3]" if scheme in ("s3", "memory") else str(error)
        raise AlexstreamError(f"{text}: the library for {scheme}:// is not installed; {remedy}") from error
    return cast(Path, path)


def is_store_error(error: Exception) -> bool:
    """Whether an object store's client raised this: no bucket, no keys, no connection."""
    return type(error).__module__.partition(".")[0] in _CLIENTS


class Pending:
    """A file on its way: it appears under its name, whole, at ``commit``; or not at all."""

    def __init__(self, path: Path) -> None:
        """Open a temporary file: beside ``path``, or on this machine if that is an object store's."""
        self._path = path
        self._local = isinstance(path, Path)
        if self._local:
            # The process number keeps a worker that outlived its killed parent from writing its successor's file.
            self._tmp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            self.file: BinaryIO = open(self._tmp, "wb")  # noqa: SIM115 - closed by discard
        else:
            self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - without a name, so a kill leaves nothing
            self._tmp = Path(f"/proc/self/fd/{self.file.fileno()}")

    def commit(self) -> None:
        """Bring what was written to its place: rename it when it is on the disk, or send it as one object."""
        self.file.flush()
        if not self._local:
            self._send()
            return
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._tmp, self._path)
        sync_names(self._path.parent)

    def _send(self) -> None:
        try:
            self._path.fs.put_file(str(self._tmp), self._path.path)  # type: ignore[attr-defined]
        except Exception as error:  # each store's client has exceptions of its own
            raise _refused(self._path, error) from error

    def discard(self) -> None:
        """Delete what was written, unless it has its name."""
        try:
            self.file.close()  # on a full disk this writes, and fails, once more
        finally:
            if self._local:
                self._tmp.unlink(missing_ok=True)


def sync_names(folder: Path) -> None:
    """Bring the names in a folder of this machine to the disk: without it a power loss may take back a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def pending(path: Path) -> Iterator[Pending]:
    """A file that appears at ``path`` if it is committed, and leaves nothing if it is not.

    Raises OutputError when its store refuses (full, read-only, no permission, not reached).
    """
    try:
        write = Pending(path)
        try:
            yield write
        finally:
            write.discard()
    except OSError as error:
        raise _refused(path, error) from error


def publish(path: Path, data: bytes) -> None:
    """Write ``path`` so that it appears complete or not at all. Raises OutputError as ``pending`` does."""
    with pending(path) as write:
        write.file.write(data)
        write.commit()


def _refused(path: Path, error: Exception) -> OutputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return OutputError(
        f"cannot write {path}: {reason.splitlines()[0]}; what is finished is kept: run the same command again"
    )


def _listed(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)
