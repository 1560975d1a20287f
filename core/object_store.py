"""Bound what an object store may answer: in time, in bytes, and in the length of listings.

A store is someone else's program. ``guard_filesystem`` wraps the S3 client of s3fs with these limits, so that every
read, here and in the library, has them; clients of other stores keep their own.
"""

from __future__ import annotations

import asyncio
import errno
import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

ATTEMPTS, TIMEOUT_S = 2, 30.0  # of a request; the time also applies to each 8 MiB of an answer
MAX_DEPTH = 48  # of nested folders
MAX_KEYS, MAX_PAGES = 4_000_000, 20_000  # of one folder; the largest known flat one has 1.3 million
MAX_ANSWER_BYTES, MAX_ANSWER_TAGS = 16 << 20, 250_000  # of a page of a listing; 1,000 keys take 4 MB and 24,000 tags
_PIECE_BYTES = 8 << 20
_MAX_UNRANGED_BYTES = 64 << 20  # bytes of an answer to a request without range, as s3fs makes for up to 50 MiB
WEB_PAGE = "the store answered with a web page"
_LISTING = "list_objects_v2"
_RETRIED_METHODS = (_LISTING, "head_object", "head_bucket")  # s3fs retries reads itself


class StoreEntry(NamedTuple):
    """An entry of a store's folder: the last part of its name, its kind and its size."""

    name: str
    is_dir: bool
    num_bytes: int


def guard_filesystem(filesystem: Any) -> None:
    """Bound the time and size of every answer to an s3fs file system; do nothing to other kinds."""
    if hasattr(filesystem, "_call_s3") and not isinstance(filesystem._call_s3, _GuardedCall):
        filesystem._call_s3 = _GuardedCall(filesystem, filesystem._call_s3)
        filesystem.isfile = partial(_is_file, filesystem)
        filesystem.isdir = partial(_is_folder, filesystem, filesystem.isdir)


def list_store_folder(filesystem: Any, path: str) -> list[StoreEntry]:
    """List one folder of a store. Raises OSError if it does not exist, or exceeds the limits above."""
    depth = path.strip("/").count("/")
    if depth > MAX_DEPTH:
        raise OSError(f"the store shows folders nested {depth} deep, more than {MAX_DEPTH}; no source is like that")
    if hasattr(filesystem, "_call_s3") and path.strip("/"):
        from fsspec.asyn import sync

        found: list[StoreEntry] = sync(filesystem.loop, list_async, filesystem, path)
        return found
    answer = filesystem.ls(path, detail=True)
    _check_count(len(answer))
    own = path.strip("/")
    named = [(str(one["name"]), one["type"] == "directory", one["size"] or 0) for one in answer]
    return [
        StoreEntry(name.rstrip("/").rpartition("/")[2], is_dir, size)
        for name, is_dir, size in named
        if name.strip("/") != own and (is_dir or not name.endswith("/"))
    ]


def _check_count(found: int) -> None:
    if found > MAX_KEYS:
        raise OSError(f"the store shows more than {MAX_KEYS:,} entries in one folder; no source has so many")


async def list_async(filesystem: Any, path: str) -> list[StoreEntry]:
    """List a folder as ``list_store_folder`` does, on the client's own event loop."""
    bucket, key, _ = filesystem.split_path(path.rstrip("/"))
    prefix = f"{key}/" if key else ""
    found: list[StoreEntry] = []
    more: dict[str, str] = {}
    is_there = False
    while True:
        page = await filesystem._call_s3(_LISTING, Bucket=bucket, Prefix=prefix, Delimiter="/", **more)
        names = _parse_page(page)
        is_there = is_there or bool(names)
        for name, is_dir, size in names:
            own = name[len(prefix) :].removesuffix("/") if is_dir else name[len(prefix) :]
            if not name.startswith(prefix) or "/" in own.rstrip("/"):
                raise OSError("the store lists names outside the requested folder")
            if own and (is_dir or not own.endswith("/")):
                found.append(StoreEntry(own, is_dir, size))
        _check_count(len(found))
        if not page.get("IsTruncated"):
            break
        more = {"ContinuationToken": str(page.get("NextContinuationToken", ""))}
    if not is_there:
        raise FileNotFoundError(path)
    return found


def _parse_page(page: Any) -> list[tuple[str, bool, int]]:
    """Return names in a page of a listing, whether each is a folder, and bytes. Raises OSError if it is malformed."""
    try:
        names = [(one["Prefix"], True, 0) for one in page.get("CommonPrefixes", [])]
        names += [(one["Key"], False, one["Size"]) for one in page.get("Contents", [])]
    except (AttributeError, KeyError, TypeError) as error:
        raise OSError("the store's listing of a folder is malformed") from error
    if not all(type(name) is str and type(size) is int and size >= 0 for name, _, size in names):
        raise OSError("the store's listing of a folder is malformed")
    return names


def _is_folder(filesystem: Any, of_library: Callable[[str], bool], path: str) -> bool:
    """Return whether a folder holds anything, by asking for one name; s3fs would list all of it."""
    from fsspec.asyn import sync

    bucket, key, _ = filesystem.split_path(filesystem._strip_protocol(path).rstrip("/"))
    if not key:
        return of_library(path)
    asked = {"Bucket": bucket, "Prefix": f"{key}/", "MaxKeys": 1}
    try:
        return bool(sync(filesystem.loop, filesystem._call_s3, _LISTING, **asked).get("Contents"))
    except FileNotFoundError:
        return False


def _is_file(filesystem: Any, path: str) -> bool:
    """Return whether a name is an object; s3fs would say no for a store that does not answer."""
    try:
        return bool(filesystem.info(path)["type"] == "file")
    except (FileNotFoundError, PermissionError):
        return False


class _GuardedCall:
    """A replacement of ``S3FileSystem._call_s3`` that enforces the limits."""

    def __init__(self, filesystem: Any, call: Callable[..., Awaitable[Any]]) -> None:
        self._filesystem, self._call = filesystem, call
        self._tokens: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # continuation tokens by listing task

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._call_bounded(method, *args, **kwargs)
        except (FileNotFoundError, TimeoutError):
            raise
        except OSError as error:
            _add_address(error, kwargs)
            raise
        except Exception as error:
            if not (reason := _describe_bad_answer(error)):
                raise
            raise OSError(errno.EIO, reason, _address(kwargs)) from error

    async def _call_bounded(self, method: str, *args: Any, **kwargs: Any) -> Any:
        await self._filesystem.set_session()
        _limit_answers(await self._filesystem.get_s3(kwargs.get("Bucket")))
        if method == _LISTING:
            self._check_page(kwargs.get("ContinuationToken"))
        if method in _RETRIED_METHODS:
            return await self._call_with_retries(method, *args, **kwargs)
        if method != "get_object":
            return await self._call(method, *args, **kwargs)
        async with asyncio.timeout(TIMEOUT_S):
            answer = await self._call(method, *args, **kwargs)
        answer["Body"] = _LimitedBody(answer["Body"], _range_bytes(kwargs.get("Range")))
        return answer

    async def _call_with_retries(self, method: str, *args: Any, **kwargs: Any) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await self._call(method, *args, **kwargs)
            except TimeoutError:
                if attempt + 1 < ATTEMPTS:
                    _say_waiting(_address(kwargs), attempt + 2)
        raise OSError(f"the store did not answer within {TIMEOUT_S:g} s, {ATTEMPTS} times")

    def _check_page(self, token: str | None) -> None:
        """Raise OSError if a listing repeats a page, or has no end."""
        seen = self._tokens.setdefault(asyncio.current_task(), set())
        if token is None:
            seen.clear()
            return
        if not token or token in seen or len(seen) >= MAX_PAGES:
            raise OSError("the store's listing of a folder has no end")
        seen.add(token)


def is_web_page(data: bytes) -> bool:
    """Return whether an answer is HTML: the login page of a proxy, or a console in place of the store."""
    return data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _say_waiting(address: str, attempt: int) -> None:
    """Say on stderr which store does not answer: without that, a minute of silence looks like a long listing."""
    print(  # noqa: T201
        f"{address}: no answer from the object store for {TIMEOUT_S:g} s; asking again ({attempt} of {ATTEMPTS})",
        file=sys.stderr,
        flush=True,
    )


def _address(asked: dict[str, Any]) -> str:
    """Return the address of what a request asked for."""
    return f"s3://{asked.get('Bucket', '')}/{asked.get('Key', asked.get('Prefix', ''))}"


def _add_address(error: OSError, asked: dict[str, Any]) -> None:
    """Give an error of a store, which is a text alone, its reason and address as an error of a disk has them."""
    if error.strerror is None:
        error.strerror = (str(error).splitlines() or [type(error).__name__])[0]
        error.errno = errno.EACCES if isinstance(error, PermissionError) else errno.EIO
    if error.filename is None:
        error.filename = _address(asked)


def _describe_bad_answer(error: Exception) -> str:
    """Return what is wrong with a store's answer, where the client's own words are about itself; "" elsewhere."""
    cause = getattr(error, "kwargs", {}).get("error")
    if type(cause).__name__ == "TooManyRedirects":
        return "the store redirects from one address to the next without end"
    if type(error).__name__ == "HTTPClientError":  # itself, and no error of connections, whose text has the address
        return f"the store's answer cannot be read ({type(cause).__name__}: {str(cause)[:80]})"
    return ""


def _limit_answers(client: Any) -> None:
    """Bound what a client of aiobotocore reads whole: listings, and the texts of errors."""
    session = client._endpoint.http_session
    if not isinstance(session.send, partial):
        session.send = partial(_send_limited, session.send)


async def _send_limited(send: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
    """Send a request as ``AIOHTTPSession.send`` does; read no answer of more bytes or tags than a listing has."""
    from aiobotocore.response import StreamingBody  # type: ignore[import-untyped]

    is_stream, request.stream_output = request.stream_output, True
    response = await send(request)
    if not is_stream or response.status_code >= 300:
        body = _LimitedBody(StreamingBody(response.raw, None), MAX_ANSWER_BYTES)
        try:
            response._content = await body.read()
        except BaseException:
            body.close()
            raise
        if response.status_code < 300 and is_web_page(response._content):
            raise OSError(f"{WEB_PAGE}; log in there, or correct AWS_ENDPOINT_URL")
        if response._content.count(b"<") > MAX_ANSWER_TAGS:  # each takes many times its bytes when it is parsed
            raise OSError(f"the store's answer has more than {MAX_ANSWER_TAGS:,} tags; no listing of S3 is like that")
    return response


def _range_bytes(asked: str | None) -> int:
    """Return the number of bytes in an HTTP range, ``bytes=0-9``."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
    return int(found[2]) + 1 - int(found[1]) if found else _MAX_UNRANGED_BYTES


class _LimitedBody:
    """The body of an answer, limited to the bytes requested and in time."""

    def __init__(self, body: Any, most: int) -> None:
        self._body, self._left = body, most

    async def read(self, amount: int | None = None) -> bytes:
        """Return ``amount`` bytes, fewer at the end; all by default. Raises TimeoutError, or OSError for an excess."""
        wanted = self._left + 1 if amount is None or amount < 0 else min(amount, self._left + 1)
        pieces: list[bytes] = []
        while wanted:
            size = 0
            async with asyncio.timeout(TIMEOUT_S):
                while size < min(_PIECE_BYTES, wanted) and (
                    piece := await self._body.read(min(_PIECE_BYTES, wanted) - size)
                ):
                    pieces.append(piece)
                    size += len(piece)
            wanted -= size
            self._left -= size
            if self._left < 0:
                raise OSError("the store sent more bytes than were requested")
            if size < _PIECE_BYTES:
                break
        return b"".join(pieces)

    def close(self) -> None:
        """Return the connection to the pool, or close it."""
        self._body.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
