"""What the site shows beside this folder: the results of benchmarks, under ``benchmarks/``."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"


def on_files(files, config):
    """Add the results to the site's pages."""
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".svg"):
            files.append(File(f"{RESULTS}/{path.name}", str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that leave the folder lead to the copies."""
    return markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
