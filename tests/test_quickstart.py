"""The recorded session of the quick start happens again: same commands, answers of the same form.

After a change that is meant to show: ``ALEXSTREAM_RECORD=1 pytest tests/test_quickstart.py`` records it anew.
"""

import os
import re
import shlex
import sys

from tests.support import ROOT, forked_commands

PAGE = ROOT / "docs" / "quickstart.md"
# What is tried are words: a narrow network says the same ones, in a tenth of the time.
IS_WHOLE = bool(os.environ.get("ALEXSTREAM_RECORD")) or os.environ.get("ALEXSTREAM_TRIALS", "short") != "short"
BLOCK = re.compile(r"^```console\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def session(text):
    """Commands with the answers below them."""
    for block in BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = part.partition("\n")
            yield command, answer


def answer(command):
    """What a command says on stdout, in a process of its own."""
    program, *words = shlex.split(command)
    assert program == "alexstream"
    words += [] if IS_WHOLE or words[0] != "train" else ["--width", "0.125"]
    done = forked_commands.run(words, timeout=600, forked_ranks=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    said = done.stdout.replace(sys.executable, ".venv/bin/python").rstrip("\n")
    return f"{said}\n" if said else ""


def form(command, said, classes):
    """What does not depend on the machine or its arithmetic: words without numbers, versions and names of classes."""
    if command.endswith(" doctor"):
        return [line[2:24] for line in said.splitlines() if line[:1] in "✓!✗"]
    said = re.sub(rf"\b({'|'.join(classes)})\b", "CLASS", said)
    said = re.sub(r"^(DATA|COMPUTE)-BOUND.*", "VERDICT", said, flags=re.MULTILINE)
    said = re.sub(r"\b[0-9a-f]{8,}\b", "#", said)
    said = re.sub(r"[+−-]?\d[\d,.]*", "#", said)
    return [re.sub(r"\s+", " ", line).strip() for line in said.splitlines()]


def test_the_first_ten_minutes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    recorded, happened = list(session(text)), []
    for command, _ in recorded:
        happened.append((command, answer(command)))
    classes = sorted(path.name for path in (tmp_path / "photos" / "train").iterdir() if path.is_dir())
    for name in ("stats.png", "preview.png", "runs/first/report.html"):
        assert (tmp_path / name).stat().st_size > 1000
    if os.environ.get("ALEXSTREAM_RECORD"):
        answers = iter(happened)
        PAGE.write_text(BLOCK.sub(lambda block: written(block[1].count("\n$ ") + 1, answers), text))
        return
    for (command, then), (_, now) in zip(recorded, happened, strict=True):
        assert form(command, then, classes) == form(command, now, classes), command


def written(count, answers):
    """A block of the page with the next ``count`` commands and their answers."""
    parts = [f"$ {command}\n{said}" for command, said in (next(answers) for _ in range(count))]
    return f"```console\n{''.join(parts)}```\n"
