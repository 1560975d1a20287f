"""What became of trials: lines of JSON that a run appends, and the table that docs/reliability.md makes of them.

``python tests/faults/record.py LOG...`` writes the table of a log into docs/reliability.md. Of several logs the later
one has the say about a fault, so ``record.py benchmarks/results/reliability.jsonl LOG`` brings some rows up to date.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RESULT = ROOT / "benchmarks" / "results" / "reliability.jsonl"
BEGIN, END = "<!-- table: tests/faults/record.py -->", "<!-- end of table -->"


def note(promise, fault, trials, outcome, command, **more):
    """Append a line to the file that ``ALEXSTREAM_TRIAL_LOG`` names; nothing if it names none.

    ``outcome`` is ``kept`` or what went wrong, in words.
    """
    if path := os.environ.get("ALEXSTREAM_TRIAL_LOG"):
        line = {"promise": promise, "fault": fault, "trials": trials, "outcome": outcome, "command": command, **more}
        with open(path, "a") as file:  # one write a line: several processes may append
            file.write(json.dumps(line) + "\n")


def table(lines):
    """Markdown: a row for each promise and fault, in the order in which they first appear; trials are added up."""
    rows = added(lines, lambda line: (line["promise"], line["fault"]))
    text = ["| promise | fault | trials | outcome | repeat with |", "|---|---|---|---|---|"]
    for (promise, fault), row in rows.items():
        commands = ", ".join(f"`{command}`" for command in row["commands"])
        text.append(f"| {promise} | {fault} | {row['trials']:,} | {row['outcome']} | {commands} |")
    return "\n".join(text)


def summary(lines):
    """Markdown: a row for each promise."""
    rows = added(lines, lambda line: line["promise"])
    text = ["| promise | faults | trials | outcome |", "|---|---|---|---|"]
    text += [
        f"| {promise} | {len(row['faults'])} | {row['trials']:,} | {row['outcome']} |" for promise, row in rows.items()
    ]
    return "\n".join(text)


def added(lines, key):
    """Lines of a log added up by what ``key`` says of them."""
    rows = {}
    for line in lines:
        row = rows.setdefault(key(line), {"trials": 0, "broken": [], "commands": {}, "faults": set()})
        row["trials"] += line["trials"]
        row["broken"] += [line["outcome"]] if line["outcome"] != "kept" else []
        row["commands"].setdefault(line["command"])
        row["faults"].add(line["fault"])
    return {name: {**row, "outcome": "; ".join(row["broken"]) or "kept"} for name, row in rows.items()}


def latest(logs):
    """Lines of several logs: of each fault those of the last log that has it, where it first stood."""
    rows = {}
    for lines in logs:
        mine = {}
        for line in lines:
            mine.setdefault((line["promise"], line["fault"]), []).append(line)
        rows.update(mine)
    return [line for lines in rows.values() for line in lines]


def read(path):
    """Lines of a log, or of what was kept of one."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [line for line in lines if "promise" in line]


def section(machine, lines):
    """What stands in the page between its marks: where it was tried, the promises, and each fault."""
    return f"""{BEGIN}

{machine}

{summary(lines)}

## Each fault, and the command that tries it again

{table(lines)}

{END}"""


def main():
    """Keep a log beside the other results, with the machine as its first line, and put its table into the page."""
    from benchmarks.machine import describe

    machine, lines = describe(), latest(map(read, sys.argv[1:]))
    kept = [{"machine": machine}, *lines]
    RESULT.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + section(machine, lines) + rest.split(END)[1])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
