"""Read and write the JSON documents of a data set: canonical bytes with a schema and a checksum, checked when read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from alexstream.core.errors import DatasetError, DatasetVersionError
from alexstream.core.object_store import WEB_PAGE, is_web_page
from alexstream.core.schema import parse_json
from alexstream.core.storage import publish_file, read_small
from alexstream.core.text import quote_value
from alexstream.core.versions import is_newer, newer_version_message, older_version_message

SCHEMA = "alexstream-dataset/1"
_MOST_VALUES = 1_500_000  # in a manifest: 6 per shard, 6 per class and some commas in its name
SHARD_AGAIN = "shard the source again"


def json_bytes(value: Any) -> bytes:
    """Serialize to canonical JSON: sorted keys, two spaces, final newline; equal values give equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode("ascii")


def json_digest(value: Any) -> str:
    """Return the sha256 of ``json_bytes``."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def save_document(path: Path, fields: dict[str, Any]) -> None:
    """Write a JSON object with its schema and the checksum of everything else in it."""
    content = {"schema": SCHEMA, **fields}
    publish_file(path, json_bytes({**content, "checksum": json_digest(content)}))


def load_document(path: Path, *, most: int, missing: str) -> dict[str, Any]:
    """Load what ``save_document`` wrote, at most ``most`` bytes.

    Raises DatasetError for a foreign or changed file, and with the message ``missing`` if there is none.
    """
    if not path.is_file():
        raise DatasetError(missing)
    data = read_limited(path, most)
    try:
        # What is quick to read in may be slow to write out again, and take far more memory than its bytes.
        if (found := sum(data.count(mark) for mark in (b",", b"[", b"{"))) > _MOST_VALUES:
            raise ValueError(f"some {found:,} values, more than any has")
        raw = parse_json(data)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        again = json_bytes(raw)
        checksum = raw.pop("checksum", None)
        line = f'  "checksum": {json.dumps(checksum)},\n'.encode("ascii")
        content = hashlib.sha256(again.replace(line, b"", 1)).hexdigest()  # the schema comes after it
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); shard the source again") from error
    schema = raw.pop("schema", None)
    if is_newer(schema, SCHEMA):
        raise DatasetVersionError(newer_version_message(path, f"schema {schema}, this one reads {SCHEMA}"))
    if schema != SCHEMA:
        raise DatasetError(
            f"{path}: schema {quote_value(str(schema)[:40])}, expected {quote_value(SCHEMA)}; shard the source again"
        )
    if checksum is None:
        raise DatasetVersionError(older_version_message(path, "it records no checksum", SHARD_AGAIN))
    if checksum != content:
        raise DatasetError(
            f"{path}: was changed after it was written (its checksum is {str(checksum)[:12]}…, its content gives "
            f"{content[:12]}…); restore it, or shard the source again"
        )
    if data != again:  # different bytes with the same values: spaces, 1E5 for 1e5
        raise DatasetError(f"{path}: was changed after it was written (in its spaces or spelling); restore it, or "
                           "shard the source again")  # fmt: skip
    return raw


def read_limited(path: Path, most: int) -> bytes:
    """Read a whole file of at most ``most`` bytes. Raises DatasetError if that fails."""
    try:
        data = read_small(path, most)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(f"cannot read {path}: {reason}; fix that and run the same command again") from error
    if is_web_page(data) and not isinstance(path, Path):
        raise DatasetError(f"{path}: {WEB_PAGE} in its place; log in there, or correct the store's address and keys")
    return data
