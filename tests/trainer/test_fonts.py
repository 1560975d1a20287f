"""Letters that matplotlib's font lacks come from other fonts of the machine; where none has them, they are named."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image, ImageFont

from alexstream.report import charts
from alexstream.trainer.evaluation import fonts
from alexstream.trainer.evaluation.pictures import CaptionedImage, save_sheet
from tests.support.commands import call

CAT, DOG, APPLE = "猫", "犬", "\N{RED APPLE}"
OWN = "Ünïçødé Привет γάτα קת قطة"  # what matplotlib's own font has: Latin, Cyrillic, Greek, Hebrew, Arabic


def make_font(path, letters):
    """Make a font whose letters are black squares, an em wide."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [f"g{i}" for i in range(len(letters))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names, strict=True)})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), **{name: pen.glyph() for name in names}})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in [".notdef", *names]})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with no fonts but those that are appended."""
    files = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    return files


def drawn_black(path, caption, side=32):
    """How many pixels below the first image of a sheet are black."""
    white = np.full((side, side, 3), 255, np.uint8)
    missing = save_sheet([[CaptionedImage(pixels_SSC=white, lines=(caption, ""))]], "h", "w", path)
    with Image.open(path) as image:
        return missing, int((np.asarray(image.convert("L"))[-60:] < 60).sum())


def test_what_the_own_font_has_needs_no_other(machine, tmp_path):
    machine.append(make_font(tmp_path / "Every Regular.ttf", OWN.replace(" ", "")))
    choice = fonts.choose_fonts(OWN)
    assert (choice.families, choice.missing) == ([fonts.OWN_FONT], "")


def test_a_letter_is_drawn_in_the_font_that_has_it(machine, tmp_path):
    missing, boxes = drawn_black(tmp_path / "a.png", CAT)
    assert missing == CAT
    machine += [make_font(tmp_path / "Dogs Regular.ttf", DOG), make_font(tmp_path / "Cats Regular.ttf", CAT)]
    missing, black = drawn_black(tmp_path / "b.png", CAT)
    assert missing == "" and black > boxes + 50  # a square of 11 pixels, where a box was an outline
    assert fonts.choose_fonts(CAT).families == [fonts.OWN_FONT, "Cats Regular"]
    assert fonts.choose_fonts(f"{DOG}x{CAT}{DOG}").families[1:] == ["Cats Regular", "Dogs Regular"]


def test_letters_that_no_font_has_are_named_once_each_and_marks_that_show_nothing_are_not(machine):
    assert fonts.choose_fonts(f"{DOG} a{CAT}\u200d\ufe0f{DOG}").missing == DOG + CAT


@pytest.mark.parametrize("name", ["LastResort.otf", "AdobeBlank Regular.ttf", "torn.ttf"])
def test_fonts_that_show_nothing_or_cannot_be_read_are_passed_over(machine, tmp_path, name):
    if name == "torn.ttf":
        (tmp_path / name).write_bytes(b"\0\1\0\0 torn")
    machine.append(str(tmp_path / name) if name == "torn.ttf" else make_font(tmp_path / name, CAT))
    assert fonts.choose_fonts(CAT).missing == CAT


def test_a_colored_emoji_stands_in_its_space_of_the_text(machine, tmp_path, monkeypatch):
    """Fonts of pictures are not matplotlib's to draw; a font of red squares stands for one."""
    path = make_font(tmp_path / "Emoji.ttf", APPLE)
    machine.append(path)
    read = fonts._read_letters
    monkeypatch.setattr(fonts, "_read_letters", lambda p: (p != path and read(p)[0], read(p)[1]))

    def render(font, text, side):
        assert (font, text) == (path, APPLE) and ImageFont.truetype(font, 20).getbbox(text)
        return np.full((side, side, 4), (255, 0, 0, 255), np.uint8)

    monkeypatch.setattr(fonts, "_render_emoji", render)
    lefts = []
    for caption in (f"{APPLE}x", f"iiiiii{APPLE}x"):
        assert drawn_black(tmp_path / "a.png", caption, side=200)[0] == ""
        with Image.open(tmp_path / "a.png") as image:
            rows, columns = np.nonzero((np.asarray(image.convert("RGB")) == (255, 0, 0)).all(-1))
        assert np.ptp(rows) == np.ptp(columns) == 10  # 8 points are 11 pixels
        lefts.append(columns.min())
    assert lefts[0] == 16 and 30 < lefts[1] < 45  # after six narrow letters


def test_the_text_of_an_svg_stays_text_and_lacks_nothing(machine, tmp_path):
    white = np.full((200, 200, 3), 255, np.uint8)
    path = tmp_path / "sheet.svg"
    assert save_sheet([[CaptionedImage(pixels_SSC=white, lines=(CAT + APPLE, "<b>"))]], "h", "w", path) == ""
    texts = ["".join(one.itertext()) for one in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["h", "w", CAT + APPLE, "<b>"]


def test_a_chart_leaves_room_for_letters_that_this_machine_does_not_have(machine, recwarn):
    svg = str(charts.draw_bars("c", [CAT * 5, "cat"], [("train", [1.0, 2.0])], "images"))
    assert CAT * 5 in svg and "\N{NO-BREAK SPACE}" * 5 + CAT in svg and not recwarn.list


def test_a_command_names_the_letters_that_it_could_not_draw(machine, tmp_path):
    generator = np.random.default_rng(0)
    for name in (CAT, "dog"):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / "a.png")
    assert call("shard", "--src", tmp_path / "images", "--out", tmp_path / "set", "--quiet").exit_code == 0
    options = ("preview", tmp_path / "set", "--batch-size", 2, "--count", 2, "--out")
    told = call(*options, tmp_path / "p.png")
    (note,) = [line for line in told.stderr.splitlines() if line.startswith("note:")]
    assert f"no font on this machine has {CAT}, so boxes stand for them" in note and "fonts-noto-cjk" in note
    assert Path(tmp_path / "p.png").stat().st_size > 1000
    assert "note:" not in call(*options, tmp_path / "p.svg").stderr
