"""What became of trials: lines of JSON that a run appends, and the table that docs/reliability.md makes of them.

``python tests/faults/record.py LOG`` writes the table of a log into docs/reliability.md.
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


def read(path):
    """Lines of a log."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def section(lines):
    """What stands in the page between its marks: where it was tried, the promises, and each fault."""
    return f"""{BEGIN}

{lines[0]["machine"]}

{summary(lines[1:])}

## Each fault, and the command that tries it again

{table(lines[1:])}

{END}"""


def main():
    """Keep a log beside the other results, with the machine as its first line, and put its table into the page."""
    from benchmarks.machine import describe

    lines = [{"machine": describe()}, *read(sys.argv[1])]
    RESULT.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + section(lines) + rest.split(END)[1])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
