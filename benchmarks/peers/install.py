"""Install the converters and loaders that ours is compared with, each with its exact versions in its own environment.

Example::

    python benchmarks/peers/install.py                  # all, under build/peers (or $ALEXSTREAM_PEERS)
    python benchmarks/peers/install.py --only ffcv --folder /tmp/peers

What is there already stays. What cannot be installed is said, here and in the results of ``conversion.py`` and
``stream.py``. FFCV is compiled: it needs a C++ compiler and Debian's libopencv-dev, libturbojpeg0-dev and pkg-config.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
READY, REASON = "ready", "not-installed.txt"
PIP_SECONDS = 1200
# The data sets that MosaicML Streaming is shipped with are not used, but want much that is not installed.
WITHOUT_DATA_SETS = (
    "import sys; from types import ModuleType as M; "
    "sys.modules.update({n: M(n) for n in ('streaming.multimodal', 'streaming.text', 'streaming.vision')})"
)


@dataclass(frozen=True)
class Peer:
    """An environment: ``NAME.txt`` beside this file lists its packages; ``check`` must import afterwards."""

    check: str
    libraries: tuple[str, ...] = ()  # as pkg-config knows them
    advice: str = ""


PEERS = {
    "img2dataset": Peer("from img2dataset.resizer import Resizer"),
    "ffcv": Peer(
        "import ffcv.fields, ffcv.writer",
        ("opencv4", "libturbojpeg"),
        "to compile it, Debian's libopencv-dev, libturbojpeg0-dev and pkg-config are needed",
    ),
    "pillow-simd": Peer("import simplejpeg, webdataset; from PIL import Image"),
    "grain": Peer("import grain, simplejpeg, torch"),
    "litdata": Peer("import litdata, simplejpeg"),
    "spdl": Peer("import simplejpeg, torch; from spdl.pipeline import PipelineBuilder"),
    "streaming": Peer(f"{WITHOUT_DATA_SETS}; import simplejpeg, streaming"),
    "tensorflow": Peer("import tensorflow"),
}


def default_folder() -> Path:
    """``$ALEXSTREAM_PEERS``, else ``build/peers``."""
    return Path(os.environ.get("ALEXSTREAM_PEERS", HERE.parent.parent / "build" / "peers"))


def interpreter(folder: Path, name: str) -> Path:
    """The Python of an installed peer. Raises RuntimeError with the reason if it is not installed."""
    home = folder / name
    if (home / READY).is_file():
        return home / "bin" / "python"
    reason = home / REASON
    raise RuntimeError(reason.read_text().strip() if reason.is_file() else "run benchmarks/peers/install.py")


def install(folder: Path, name: str) -> None:
    """Make the environment of a peer unless it is there. Raises RuntimeError with the reason if that fails."""
    home, requirements = folder / name, HERE / f"{name}.txt"
    stamp = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if (home / READY).is_file() and (home / READY).read_text() == stamp:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        _check_libraries(PEERS[name])
        python = str(home / "bin" / "python")
        _run(sys.executable, "-m", "venv", str(home))
        _run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")  # old ones refuse some metadata
        _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(requirements))
        _run(python, "-c", PEERS[name].check)
    except RuntimeError as error:
        (home / REASON).write_text(str(error))
        raise
    (home / READY).write_text(stamp)


def _check_libraries(peer: Peer) -> None:
    for library in peer.libraries:
        try:
            _run("pkg-config", "--exists", "--print-errors", library)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; {peer.advice}") from error


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS)
    except FileNotFoundError as error:
        raise RuntimeError(f"there is no {command[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(command[1:4])} took more than {PIP_SECONDS} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line for line in said if "error" in line.lower()]
        raise RuntimeError((errors or said)[-1].strip())


def main() -> None:
    """Install what is asked for and say what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="[default: %(default)s]")
    parser.add_argument("--only", choices=[*PEERS], help="this one [default: all]")
    args = parser.parse_args()
    for name in [args.only] if args.only else PEERS:
        try:
            install(args.folder, name)
            print(f"{name}: installed in {args.folder / name}")
        except RuntimeError as error:
            print(f"{name}: not installed: {error}")


if __name__ == "__main__":
    main()
