"""Find fonts of this machine for text of any script, where matplotlib's own lacks letters; draw colored emoji.

matplotlib draws each letter in the first font of a list that has it. It cannot draw fonts whose glyphs are pictures,
as those of colored emoji are: Pillow draws these, in spaces that are left for them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

OWN_FONT = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic, symbols
BLANK_FONTS = ("lastresort", "adobeblank")  # fonts with a glyph for every letter, which shows none
EMOJI_PX = 109  # the only size of most fonts of colored emoji
EM_SPACE = "\N{EM SPACE}"
_JOINERS = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"  # what changes the emoji before it


@dataclass(slots=True, kw_only=True)
class FontChoice:
    """Fonts for a text: ``families`` for matplotlib, the file of an ``emoji`` font, and the letters that none has."""

    families: list[str] = field(default_factory=lambda: [OWN_FONT])
    emoji: str = ""
    emoji_letters: set[str] = field(default_factory=set)
    missing: str = ""


def choose_fonts(text: str) -> FontChoice:
    """Choose fonts for a text: matplotlib's own and, for letters that it lacks, others of this machine."""
    from matplotlib import font_manager

    choice = FontChoice()
    lacking = {one for one in text if _needs_glyph(one)}
    lacking -= _read_letters(font_manager.findfont(OWN_FONT))[1]
    for path in _list_font_files() if lacking else ():
        is_scalable, letters = _read_letters(path)
        found = lacking & letters
        if found and is_scalable:
            font_manager.fontManager.addfont(path)
            choice.families.append(font_manager.get_font(path).family_name)
            lacking -= found
        elif found and not choice.emoji:
            choice.emoji, choice.emoji_letters = path, set(found)
    choice.emoji_letters &= lacking
    choice.missing = "".join(dict.fromkeys(one for one in text if one in lacking - choice.emoji_letters))
    return choice


def fit_fonts(figure: Any) -> FontChoice:
    """Give all texts of a figure the fonts that have their letters; return these."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    choice = choose_fonts("".join(one.get_text() for one in texts))
    if len(choice.families) > 1:
        for one in texts:
            one.set_fontfamily(choice.families)
    return choice


def draw_emoji(figure: Any, choice: FontChoice) -> None:
    """Draw the colored emoji of a figure's texts, which begin at the left: a space takes the place of each."""
    letters = re.escape("".join(sorted(choice.emoji_letters)))
    sequence = re.compile(f"[{letters}][{_JOINERS}]*(?:\u200d[{letters}][{_JOINERS}]*)*")
    renderer = figure.canvas.get_renderer()
    for one in figure.texts:
        text, properties = one.get_text(), one.get_fontproperties()
        one.set_text(sequence.sub(EM_SPACE, text))
        left, bottom = one.get_transform().transform(one.get_position())
        side = round(properties.get_size_in_points() * figure.dpi / 72)
        for found in sequence.finditer(text):
            before = sequence.sub(EM_SPACE, text[: found.start()])
            width = renderer.get_text_width_height_descent(before, properties, ismath=False)[0] if before else 0
            pixels = _render_emoji(choice.emoji, found[0], side)
            figure.figimage(pixels, round(left + width), round(bottom - 0.15 * side), origin="upper")


def _render_emoji(path: str, text: str, side: int) -> Any:
    """Render an emoji, of one letter or several, in ``side`` pixels: uint8 (S, S, 4)."""
    font = ImageFont.truetype(path, EMOJI_PX)
    left, top, right, bottom = (round(value) for value in font.getbbox(text))
    image = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, font=font, fill="black", embedded_color=True)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def _needs_glyph(one: str) -> bool:
    """Return whether a letter is drawn; spaces are not, nor what only joins or changes others."""
    return unicodedata.category(one) not in ("Zs", "Cc", "Cf") and not re.match(f"[{_JOINERS}]", one)


def _list_font_files() -> Iterator[str]:
    """Yield the font files of this machine as they are now, upright ones without serifs first."""
    from matplotlib import font_manager

    def rank(path: str) -> tuple[bool, bool, str]:
        name = path.rpartition("/")[2].lower()
        return "regular" not in name, "sans" not in name, path

    for path in sorted(font_manager.findSystemFonts(), key=rank):
        if not any(blank in path.lower() for blank in BLANK_FONTS):
            yield path


@lru_cache(maxsize=512)
def _read_letters(path: str) -> tuple[bool, frozenset[str]]:
    """Return whether matplotlib can draw a font's glyphs, and its letters: none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return font.scalable, frozenset(chr(code) for code in font.get_charmap())
    except (OSError, RuntimeError, ValueError):
        return False, frozenset()
