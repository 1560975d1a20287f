"""Peak memory of a conversion, for two numbers of images: what grows with them, and what does not.

Example::

    python benchmarks/memory.py --images photos/ --times 2 22

The files of ``--images`` are linked several times over into one folder per class, and converted by
``cli.py shard``. Memory is the proportional set size (PSS) of each process, looked at four times a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, result_path

from alexstream.core.memory import INTERVAL_S, list_descendants, read_pss_mib

CLI = Path(__file__).parent.parent / "cli.py"


def linked(images: Path, times: int, folder: Path) -> int:
    """Link every file ``times`` times, class by class; returns how many links that are."""
    count = 0
    for path in sorted(p for p in images.rglob("*") if p.is_file()):
        (folder / path.parent.name).mkdir(exist_ok=True)
        for i in range(times):
            (folder / path.parent.name / f"{path.stem}_{i}{path.suffix}").symlink_to(path.resolve())
            count += 1
    return count


def converted(images: Path, folder: Path, options: list[str]) -> dict[str, float]:
    """Run a conversion; the peaks of its first process, of its largest other one, and of all together, in MiB."""
    command = [sys.executable, str(CLI), "shard", "--src", str(images), "--out", str(folder), "--quiet", *options]
    start = time.perf_counter()
    peaks = {"first process": 0.0, "largest worker": 0.0, "all together": 0.0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            sizes = [read_pss_mib(pid) for pid in list_descendants(process.pid)]
            seen = {
                "first process": sizes[0],
                "largest worker": max(sizes[1:], default=0.0),
                "all together": sum(sizes),
            }
            peaks = {name: max(peaks[name], seen[name]) for name in peaks}
            time.sleep(INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return {**peaks, "seconds": time.perf_counter() - start}


def main() -> None:
    """Convert, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="one folder per class")
    parser.add_argument("--times", type=int, nargs="+", default=[2, 22])
    parser.add_argument("--encode", default="jpeg", choices=["jpeg", "raw", "keep"])
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for times in chosen.times:
            source = Path(scratch) / f"x{times}"
            source.mkdir()
            count = linked(chosen.images, times, source)
            peaks = converted(source, Path(scratch) / f"out{times}", ["--encode", chosen.encode])
            rows.append(f"| {count:,} | " + " | ".join(f"{value:,.0f}" for value in peaks.values()) + " |")
    lines = [
        f"# Memory of a conversion, `--encode {chosen.encode}`, MiB",
        "",
        f"`python benchmarks/memory.py --images {chosen.images.name} --times {' '.join(map(str, chosen.times))}"
        f" --encode {chosen.encode}`",
        "",
        describe(),
        "",
        "| images | first process | largest worker | all together | seconds |",
        "|---|---|---|---|---|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    result_path(f"memory_{chosen.encode}").write_text(text)


if __name__ == "__main__":
    main()
