"""Pure: the colours of a decoded image → right RGB, whatever the mode; and which ICC profiles must be applied.

The field reads an RGB file's numbers as they are, and so do the decoders that training uses. That is kept for
profiles under which they are RGB of some kind; where they are not (XYB of jpegli, swapped channels), the numbers
would give a wrong picture, and the profile is applied.
"""

from __future__ import annotations

import io
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sharding.errors import BadImageError

# Black, grey, white, then the primaries: what an ordinary RGB profile leaves neutral and what it leaves dominant;
# then muted colours, which tell wider spaces from sRGB where the primaries are clipped.
_GREYS = [[0] * 3, [64] * 3, [128] * 3, [192] * 3, [255] * 3]
_PRIMARIES = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
_MUTED = [[192, 96, 96], [96, 192, 96], [96, 96, 192]]
_PROBES = np.array([*_GREYS, *_PRIMARIES, *_MUTED], np.uint8)
_NEUTRAL_TOLERANCE, _SRGB_TOLERANCE = 24, 6


def to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """A loaded image of any mode as RGB; transparent pixels show white. Raises BadImageError if there is no way."""
    mode, transparency = image.mode, image.info.get("transparency")
    if mode != "RGB":
        notes.append(f"was {mode}")
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return _from_16_bits(image, transparency)
    if mode == "LAB":
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if transparency is not None or mode in ("PA", "LA", "La", "RGBA", "RGBa"):
        return _over_white(image)
    if mode in ("RGB", "1", "L", "P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("RGB")
    raise BadImageError("unsupported-mode", f"colour mode {mode} has no agreed way to RGB")


def _from_16_bits(image: Image.Image, transparency: object) -> Image.Image:
    """Pillow's own conversion clips at 255 instead of scaling."""
    values = np.asarray(image).astype(np.uint32)
    scaled = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(transparency, int):
        scaled[values == transparency] = 255
    return Image.fromarray(scaled, "L").convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Transparent pixels show white: the colour stored beneath them was never meant to be seen."""
    rgba = image.convert("RGBA")
    if np.asarray(rgba)[..., 3].min() == 255:
        return rgba.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def needs_profile(icc: bytes) -> bool:
    """Whether the profile (empty: none) is of RGB data whose numbers are no ordinary RGB."""
    return bool(icc) and _kind(icc)[0] == "exotic"


def apply_profile(image: Image.Image, icc: bytes, notes: list[str]) -> Image.Image:
    """An RGB image by its profile as sRGB. Raises BadImageError (``colour-profile``) if that cannot be done."""
    notes.append(f"ICC applied: {_kind(icc)[1]}")
    return _transformed(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)))


def note_profile(icc: bytes, notes: list[str]) -> None:
    """Note a profile that is not applied, unless it says what is taken for granted: sRGB."""
    kind, name = _kind(icc)
    if kind != "sRGB":
        notes.append(f"ICC ignored: {name}")


@lru_cache(maxsize=32)
def _kind(icc: bytes) -> tuple[str, str]:
    """``sRGB``, ``ordinary``, ``exotic`` or ``unusable`` (no profile of RGB data), and the profile's name."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = re.sub(r"[^ -:<-~]+", " ", ImageCms.getProfileDescription(profile)).strip()[:60] or "unnamed"
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return "unusable", "unreadable profile"
    if icc[16:20] != b"RGB ":
        return "unusable", name
    try:
        shown = np.asarray(_transformed(Image.fromarray(_PROBES[None]), profile), np.int64)[0]
    except BadImageError:
        return "exotic", name
    if np.abs(shown - _PROBES).max() <= _SRGB_TOLERANCE:
        return "sRGB", name
    return ("ordinary" if _is_ordinary(shown) else "exotic"), name


def _is_ordinary(shown: NDArray[np.int64]) -> bool:
    """Greys stay neutral and grow with the number, each primary keeps its channel the largest."""
    greys, primaries = shown[:5], shown[5:8]
    neutral = (greys.max(axis=1) - greys.min(axis=1)).max() <= _NEUTRAL_TOLERANCE
    growing = (np.diff(greys.sum(axis=1)) > 0).all()
    return bool(neutral and growing and (primaries.argmax(axis=1) == np.arange(3)).all())


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    try:
        target = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        shown = ImageCms.profileToProfile(image, profile, target, renderingIntent=intent, outputMode="RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        raise BadImageError("colour-profile", f"the colour profile cannot be applied ({error})") from error
    if shown is None:
        raise BadImageError("colour-profile", "the colour profile cannot be applied")
    return shown
