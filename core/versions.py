"""Distinguish files of other versions of alexstream by their schema, ``alexstream-dataset/1``, from damaged files.

A file of another version should not be restored or made again where an upgrade helps.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from alexstream.core.schema import FieldsError

_SCHEMA = re.compile(r"([a-z]+(?:-[a-z]+)*)/([1-9][0-9]{0,8})")


def is_newer(schema: Any, known: str) -> bool:
    """Return whether ``schema`` is of the kind of ``known`` and has a larger number."""
    found, ours = (_SCHEMA.fullmatch(one) if isinstance(one, str) else None for one in (schema, known))
    return found is not None and ours is not None and found[1] == ours[1] and int(found[2]) > int(ours[2])


def newer_version_message(path: Path, how: str) -> str:
    """Return the message that a newer version made ``path``, with the evidence ``how`` and the remedy."""
    return f"{path}: made by a newer alexstream ({how}); it is not damaged: upgrade alexstream"


def older_version_message(path: Path, how: str, remedy: str) -> str:
    """Return the message that an older version made ``path``, with the evidence ``how`` and the remedy."""
    return f"{path}: made by an older alexstream, whose format is no longer read ({how}); {remedy}"


def other_version_message(path: Path, error: FieldsError, remedy: str) -> str:
    """Return the message for a whole file with missing or unknown fields: an older or newer version made it."""
    return (
        newer_version_message(path, str(error)) if error.is_unknown else older_version_message(path, str(error), remedy)
    )
