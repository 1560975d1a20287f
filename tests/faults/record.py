"""What became of trials: lines of JSON that a run appends, and the table that docs/reliability.md makes of them.

``python tests/faults/record.py LOG`` writes the table of a log into docs/reliability.md.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
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
    rows = {}
    for line in lines:
        row = rows.setdefault((line["promise"], line["fault"]), {"trials": 0, "broken": [], "commands": {}})
        row["trials"] += line["trials"]
        row["broken"] += [line["outcome"]] if line["outcome"] != "kept" else []
        row["commands"].setdefault(line["command"])
    text = ["| promise | fault | trials | outcome | repeat with |", "|---|---|---|---|---|"]
    for (promise, fault), row in rows.items():
        outcome = "; ".join(row["broken"]) or "kept"
        commands = ", ".join(f"`{command}`" for command in row["commands"])
        text.append(f"| {promise} | {fault} | {row['trials']:,} | {outcome} | {commands} |")
    return "\n".join(text)


def read(path):
    """Lines of a log."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def main():
    """Put the table of a log into the page."""
    head, rest = PAGE.read_text().split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{BEGIN}\n{table(read(sys.argv[1]))}\n{END}{tail}")


if __name__ == "__main__":
    main()
