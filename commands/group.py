"""What all commands have in common: errors of one line, ``--config FILE``, suggestions for what was mistyped."""

from __future__ import annotations

import difflib
import functools
import json
import os
import signal
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from sharding.errors import AlexstreamError
from sharding.storage import is_store_error
from sharding.text import one_line


class Command(click.Command):
    """A command that takes its options from a TOML file too; what is typed goes before what the file says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As click's, with ``--config``."""
        super().__init__(*args, **kwargs)
        if any(isinstance(parameter, click.Option) for parameter in self.params):
            self.params.append(
                click.Option(
                    ["--config"],
                    type=click.Path(path_type=Path, dir_okay=False),
                    is_eager=True,
                    expose_value=False,
                    callback=_read_config,
                    help="TOML file with options by their long names: batch-size = 64.",
                )
            )

    def invoke(self, ctx: click.Context) -> Any:
        """As click; an error about a path that is not there gets the one that may be meant."""
        try:
            return super().invoke(ctx)
        except AlexstreamError as error:
            for path in _absent(ctx.params.values()):
                if str(path) in str(error) and path.parent.is_dir():
                    error.args = (f"{error}{did_you_mean(path.name, os.listdir(path.parent))}",)
            raise


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as cleanly as Ctrl-C."""


def terminated(*_: object) -> None:
    """Answer SIGTERM."""
    raise Terminated


class Group(click.Group):
    """Expected errors become one line on stderr: exit code 1; 2: wrong command line; 130: Ctrl-C; 143: SIGTERM.

    Programming errors keep their traceback.
    """

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work, not of the alphabet."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click, with the command that may be meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        signal.signal(signal.SIGTERM, terminated)
        try:
            super().main(args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "cli.py"
            fail(f"{error.format_message()} (see: {path} --help)", 2)
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except AlexstreamError as error:
            fail(str(error), 1)
        except (click.Abort, KeyboardInterrupt) as error:
            more = str(error.__cause__ or error)  # click makes an Abort of an interrupt
            by_signal = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
            fail("; ".join(filter(None, ("interrupted; what was finished is kept", more))), 143 if by_signal else 130)
        except Exception as error:
            if is_store_error(error):
                fail(f"{str(error).splitlines()[0]} (from the object store; check its address and keys)", 1)
            if isinstance(error, OSError):
                fail(_of_the_system(error), 1)
            raise


command = functools.partial(click.command, cls=Command)


def fail(message: str, exit_code: int) -> None:
    """One line on stderr, and the end."""
    click.echo(f"Error: {one_line(message)}", err=True)
    sys.exit(exit_code)


def _of_the_system(error: OSError) -> str:
    """What a disk or the system refused, and where."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}; mend that and run the same command again"


def did_you_mean(word: str, known: Any) -> str:
    """``; did you mean 'train'?``, or nothing if nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _absent(values: Iterable[Any]) -> Iterator[Path]:
    """Those that are paths of this machine at which there is nothing."""
    for value in values:
        if type(value) is type(Path()) and not value.exists():
            yield value


def effective_config(context: click.Context, leave_out: tuple[str, ...] = ()) -> str:
    """The options that a command runs with, as TOML that its ``--config`` reads; what has no value is left out."""
    lines = [f"# alexstream {version('alexstream')}, options of {context.command_path}; for --config"]
    for name, option in _options(context.command).items():
        value = context.params.get(str(option.name))
        if name not in leave_out and option.expose_value and value is not None and value != ():
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make what the file says the defaults of this command's options."""
    if path is None:
        return
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"{path}: no TOML file that can be read ({reason})", context) from error
    options = _options(context.command)
    for name, value in found.items():
        if name not in options:
            raise click.UsageError(
                f"{path}: {context.info_name} has no option {name!r}{did_you_mean(name, options)}", context
            )
        if options[name].is_flag and not isinstance(value, bool):
            raise click.UsageError(f"{path}: {name} is {value!r}, expected true or false", context)
        if isinstance(value, dict) or (isinstance(value, list) and not options[name].multiple):
            raise click.UsageError(f"{path}: {name} is {value!r}, expected one value", context)
    defaults = {str(options[name].name): _typed(options[name], value) for name, value in found.items()}
    context.default_map = {**(context.default_map or {}), **defaults}


def _typed(option: click.Option, value: Any) -> Any:
    """As if it had been typed, so that the option's type judges it; several values as a list."""
    if option.multiple:
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    return value if option.is_flag else str(value)


def _options(of: click.Command) -> dict[str, click.Option]:
    """By their long names without dashes, in the order of ``--help``."""
    return {
        max(option.opts, key=len).lstrip("-"): option
        for option in of.params
        if isinstance(option, click.Option) and "--config" not in option.opts
    }


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False)


def all_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by what is typed: ``shard``, ``bench``, ``bench shard``."""
    for name, found in group.commands.items():
        yield prefix + name, found
        if isinstance(found, click.Group):
            yield from all_commands(found, f"{prefix}{name} ")
