"""Call commands of the program in this process, and look at what a command leaves."""

from dataclasses import dataclass

from click.testing import CliRunner

from alexstream.commands import group
from alexstream.commands.main import main


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str
    pid: int = 0  # also its process group's, if it had one

    @property
    def lines(self):
        """The lines on stderr that are not empty."""
        return [line for line in self.stderr.splitlines() if line.strip()]

    @property
    def error(self):
        """Its one line of error; anything else fails."""
        assert self.code != 0, self.stderr
        assert len(self.lines) == 1 and self.lines[0].startswith("Error: "), (self.code, self.stderr)
        return self.lines[0]


def all_commands():
    """Every command by what is typed: ``shard``, ``bench``, ``bench shard``."""
    return dict(group.iter_commands(main))


def call(*words):
    """Run a command in this process; returns click's result."""
    return CliRunner().invoke(main, [str(w) for w in words])


def error_of(*words, exit_code=1):
    """Run a command that must fail; returns the single line that it prints."""
    result = call(*words)
    assert result.exit_code == exit_code, result.output
    lines = [line for line in result.stderr.splitlines() if "images/s" not in line and line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]
