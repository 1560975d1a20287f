"""``doctor``: what this machine has."""

from __future__ import annotations

import json
from pathlib import Path

import click

from commands.group import command, fail
from commands.options import FOLDER


@command()
@click.option(
    "--data",
    default=Path(),
    show_default="this folder",
    type=FOLDER,
    help="A folder on the disk that shards are on; its speed is measured with a file that is removed again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(data: Path, as_json: bool) -> None:
    """What this machine has, what will be used of it, and what to install.

    Exit code 1 if something will not work (marked ✗). Python: pipeline.doctor.examine.

    \b
    Examples:
      cli.py doctor
      cli.py doctor --data /scratch --json
    """
    from dataclasses import asdict

    from pipeline.doctor import examine

    checks = []
    for check in examine(data):
        checks.append(check)
        if not as_json:
            click.echo(check.line())
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}))
    bad = [check.name for check in checks if check.state == "bad"]
    if bad:
        fail(f"will not work: {', '.join(bad)}; the advice is above", 1)
