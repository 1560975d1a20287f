"""Name the extra to install where an optional package is missing."""

from __future__ import annotations

from importlib.util import find_spec

from alexstream.core.errors import AlexstreamError

# What charts, pictures with captions and pages are made with; without them every number is still computed.
_PACKAGES = {"report": ("matplotlib", "jinja2", "markupsafe")}


def has_extra(name: str) -> bool:
    """Return whether the packages of an extra are installed."""
    return _find_missing(name) is None


def require_extra(name: str, purpose: str) -> None:
    """Raise AlexstreamError, with the command that installs an extra, if it is missing; called before long work.

    ``purpose``: what it is needed for, in the plural.
    """
    missing = _find_missing(name)
    if missing is not None:
        raise AlexstreamError(f"{purpose} need {missing}, which is not installed: pip install 'alexstream[{name}]'")


def _find_missing(name: str) -> str | None:
    return next((package for package in _PACKAGES[name] if find_spec(package) is None), None)
