"""``doctor``: check the machine and the installation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from alexstream.commands.group import command, exit_with_error
from alexstream.commands.options import takes_data


@command()
@takes_data(
    "folder on the disk that holds the shards; its speed is measured with a temporary file. [default: this folder]",
    default=Path(),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(data: Path, as_json: bool) -> None:
    """Check this machine: hardware found, hardware that will be used, and packages to install.

    The exit code is 1 if something will not work (marked ✗). Python: alexstream.pipeline.doctor.run_checks.

    \b
    Examples:
      cli.py doctor
      cli.py doctor /scratch --json
    """
    from dataclasses import asdict

    from alexstream.pipeline.doctor import run_checks

    checks = []
    for check in run_checks(data):
        checks.append(check)
        if not as_json:
            click.echo(check.to_text())
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}, allow_nan=False))
    bad = [check.name for check in checks if check.state == "bad"]
    if bad:
        exit_with_error(f"will not work: {', '.join(bad)}; the advice is above", 1)
