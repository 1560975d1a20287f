"""Add to the site what lies beside this folder: the results of benchmarks, and a chart of some on the home page."""

import re
from html import escape
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"
CHART = re.compile(rf"!\[[^\]]*\]\({RESULTS}/(stream_[\w.-]+)\.svg\)")
ROW = re.compile(r"^\| (?P<loader>[^|]+) \| (?P<rate>\d+) \| (?P<low>\d+)–(?P<high>\d+) \|", re.MULTILINE)


def on_files(files, config):
    """Add the results to the site's pages."""
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".svg"):
            files.append(File(f"{RESULTS}/{path.name}", str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links that leave the folder to the copies; give the home page a chart of results, and no contents."""
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["toc"]
        markdown = CHART.sub(lambda found: render_chart(found[1]), markdown)
    return markdown


def render_chart(name):
    """Render the bars of all loaders of JPEG shards in ``benchmarks/results/NAME.md``, the fastest first.

    A table, which a narrow page and a reader aloud can show; raises ValueError if the file is not as expected.
    """
    text = (ROOT / RESULTS / f"{name}.md").read_text()
    rows = list(ROW.finditer(text.partition("## JPEG shards")[2].partition("\n## ")[0]))
    machine = re.search(r"; (\d+ cores of [^,]+),.* (GPU: [^;]+);", text)
    if not rows or machine is None:
        raise ValueError(f"{RESULTS}/{name}.md: no rows of JPEG shards, or no line of the machine; fix docs/hooks.py")
    rows.sort(key=lambda row: -int(row["rate"]))
    lines = "".join(_render_bar(row, int(row["rate"]) / max(int(one["high"]) for one in rows)) for row in rows)
    about = (
        f"Images/s from the same JPEG shards, with crop, flip, lighting and mean unless the name says "
        f"otherwise: median of five, smallest to largest. "
        f'{escape(machine[1])}, {escape(machine[2])}. From <a href="{RESULTS}/{name}/">{RESULTS}/{name}.md</a>.'
    )
    return f'<table class="bars"><caption>{about}</caption>{lines}</table>'


def _render_bar(row, share):
    """Render a row: the loader, a bar that takes ``share`` of the width, the numbers."""
    ours = ' class="ours"' if row["loader"].startswith("alexstream") else ""
    numbers = f"{int(row['rate']):,} <small>{int(row['low']):,}–{int(row['high']):,}</small>"
    bar = f'<span class="bar" style="width: {100 * share:.1f}%"></span>'
    return f'<tr{ours}><th scope="row">{escape(row["loader"])}</th><td>{bar}</td><td>{numbers}</td></tr>'
