"""The compiled operator under AddressSanitizer and UndefinedBehaviorSanitizer: no byte and no row takes it too far.

Rows as the stream gives them and rows that no data set gives, on JPEGs of many kinds and what damage makes of them::

    python tests/faults/sanitized.py --executions 200000

``operator.c`` calls ``fused.c``; a case that ends the process is kept (``--keep``). Skipped, with a word, where the
compiler has no sanitizers.
"""

import argparse
import io
import random
import shutil
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from tests.faults.mutate import INTERESTING, damaged  # noqa: E402
from tests.faults.record import note  # noqa: E402

PROMISE = "a damaged or hostile file is refused in one line or read rightly"
FAULT = "the compiled operator under ASan and UBSan: damaged JPEGs, impossible rows"
FLAGS = ["-O1", "-g", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FIELDS = ("length", "offset", "size", "edge", "raw", "y", "x", "flip", "mean_edge", "mean_flip", "misaligned")
CASE = np.dtype([(name, np.int64) for name in FIELDS])
EDGES, BATCH, SECONDS = (224, 256, 300), 1000, 600
OUTCOMES = range(6)


def build(folder, source=ROOT / "pipeline" / "decode" / "fused.c"):
    """The operator and ``operator.c`` as a program. None if the compiler has no sanitizers or there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    tried = subprocess.run([compiler, *FLAGS, folder / "empty.c", "-o", folder / "empty"], capture_output=True)
    if tried.returncode or subprocess.run([folder / "empty"], capture_output=True).returncode:
        return None
    words = [compiler, *FLAGS, f"-I{source.parent}", ROOT / "tests" / "faults" / "operator.c", "-ljpeg"]
    subprocess.run([*words, "-o", folder / "operator"], check=True)
    return folder / "operator"


def seeds():
    """Bytes that hold a picture of each edge, and whether they are raw: (edge, raw, content)."""
    noise = np.random.default_rng(2)
    for edge in EDGES:
        pixels = noise.integers(0, 256, (edge, edge, 3), np.uint8)
        pixels[: edge // 2] = 130  # half flat: short blocks too
        yield edge, 1, pixels.tobytes()
        for mode in ("RGB", "L", "CMYK"):
            for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"quality": 10}):
                buffer = io.BytesIO()
                Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
                yield edge, 0, buffer.getvalue()


def cases(seed):
    """Endless cases: a row and the bytes in its file."""
    chance, whole = random.Random(seed), list(seeds())
    while True:
        edge, raw, content = chance.choice(whole)
        if chance.random() < 0.8:
            content = damaged(content, chance)
        case = np.zeros((), CASE)
        case["length"], case["size"], case["edge"], case["raw"] = len(content), len(content), edge, raw
        case["y"], case["x"] = (chance.choice((0, 1, edge - 224, chance.randint(0, edge - 224))) for _ in "yx")
        case["mean_edge"] = chance.choice((224, edge))
        for name in ("flip", "mean_flip", "misaligned"):
            case[name] = chance.randint(0, 1)
        if chance.random() < 0.3:
            name = chance.choice(FIELDS[1:9])
            near, far = int(case[name]) + chance.choice((-1, 1, 33)), chance.choice(INTERESTING)
            value = chance.choice((near, far, -far))
            case[name] = (value + (1 << 63)) % (1 << 64) - (1 << 63)
        yield case.tobytes() + content


def run(program, executions, seed=0, keep=None):
    """How many cases were run, and what was found; nothing if that is empty."""
    done, endless = 0, cases(seed)
    while done < executions:
        batch = list(islice(endless, min(BATCH, executions - done)))
        try:
            ran = subprocess.run([program], input=b"".join(batch), capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return done, f"longer than {SECONDS} s for {len(batch)} cases"
        outcomes = [int(line) for line in ran.stdout.split()]
        done += len(outcomes)
        if ran.returncode or len(outcomes) != len(batch) or not set(outcomes) <= set(OUTCOMES):
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"operator-{seed}-{done}").write_bytes(batch[min(len(outcomes), len(batch) - 1)])
            said = ran.stderr.decode("utf-8", "replace").splitlines()
            return done, next((line for line in said if "error" in line.lower()), f"exit code {ran.returncode}")
    return done, ""


def main():
    """Run so many cases; exit code 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for a case that ends the process")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="operator-") as folder:
        program = build(Path(folder))
        if program is None:
            print("skipped: the compiler has no AddressSanitizer, or there is none")
            return
        done, found = run(program, args.executions, args.seed, args.keep)
    print(f"{done:,} cases {found or 'kept'}")
    command = f"python tests/faults/sanitized.py --executions {done}"
    note(PROMISE, FAULT, done, f"BROKEN: {found}" if found else "kept", command, seed=args.seed)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
