"""A report as a browser or a screen reader takes it: headings, images, tables, links, text; and the rules for all."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """What is in a page, by kind."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html, self.open = html, []
        self.tags, self.headings, self.images, self.ids, self.policy = Counter(), [], [], Counter(), ""
        self.links, self.tables, self.texts, self.styles, self.figures = [], [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags[tag] += 1
        self.ids.update(value for name, value in attributes if name == "id")
        self.links += [(tag, name, value) for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.styles += [value for name, value in attributes if name == "style"]
        assert not any(name.startswith("on") for name in given), given
        if tag == "img":
            self.images.append(given)
        if tag == "figure":
            self.figures.append(given)
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "table":
            self.tables.append([])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append([int(tag[1]), ""])
        if self.tables and "table" in self.open:
            self.tables[-1].append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            self.styles.append(data)
            return
        self.texts.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1][1] += data

    @property
    def text(self):
        """All that can be read, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def titles(self, level):
        return [text.strip() for depth, text in self.headings if depth == level]


def checked(path):
    """The page in a file, once it is found to keep all rules."""
    page = Page(path.read_text())
    levels = [level for level, _ in page.headings]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), page.headings
    assert all(text.strip() for _, text in page.headings)
    assert all(image.get("alt") for image in page.images)
    assert all(figure.get("aria-label") for figure in page.figures if figure.get("role") == "img")
    assert [one for one, count in page.ids.items() if count > 1] == []
    assert all(table[0] == "caption" for table in page.tables)
    assert page.policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not page.tags["script"] and "javascript:" not in path.read_text().lower()
    for tag, name, value in page.links:
        inside = value.startswith("#") and page.ids[value[1:]] == 1
        assert inside or (tag in ("img", "image", "link") and value.startswith("data:")), (tag, name, value[:80])
    for style in page.styles:
        assert all(url.startswith("#") for url in re.findall(r"url\(['\"]?([^)]*)", style))
    assert all(tag in page.tags for tag in ("header", "nav", "main", "footer"))
    return page
