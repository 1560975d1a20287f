"""Base classes of all commands: one-line errors, ``--config FILE``, suggestions for mistyped names."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import click

from alexstream.commands.flags import flags_for
from alexstream.commands.interrupts import INTERRUPTED_MESSAGE, Terminated, handle_interrupts
from alexstream.core.errors import AlexstreamError
from alexstream.core.limits import describe_address_limit, explain_process_limit
from alexstream.core.parameters import to_display, use_names
from alexstream.core.program import program_name
from alexstream.core.progress import tell_activities
from alexstream.core.standard_streams import guard_streams, treat_output_as_log
from alexstream.core.storage import is_store_error
from alexstream.core.text import to_one_line
from alexstream.core.toml import MAX_BYTES, parse_toml

_PROGRAM = re.compile(r"(?<!-- )(?<!python )\bcli\.py(?= [a-z])")  # torchrun starts files and modules


class Command(click.Command):
    """A command whose options can also come from a TOML file (``--config``); typed options take precedence.

    ``groups`` are headings of ``--help``, each with the long names of its options; what is in none comes last.
    ``writes_files`` marks a command whose result is files: its output is only a log, so that a standard output which
    can no longer be written to does not end it.
    """

    def __init__(
        self, *args: Any, writes_files: bool = False, groups: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._writes_files, self.groups = writes_files, groups or {}
        if any(isinstance(parameter, click.Option) for parameter in self.params):
            self.params.append(
                click.Option(
                    ["--config"],
                    type=click.Path(path_type=Path, dir_okay=False),
                    is_eager=True,
                    expose_value=False,
                    callback=_read_config,
                    help="TOML file of options by their long names, for example: batch-size = 64.",
                )
            )

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text, with examples by the name under which the program was started."""
        return name_program(super().get_help(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the headings of ``groups``, in their order."""
        if not self.groups:
            return super().format_options(ctx, formatter)
        left = {name: record for name, record in _help_records(self.get_params(ctx), ctx)}
        for heading, names in self.groups.items():
            with formatter.section(heading):
                formatter.write_dl([left.pop(f"--{name}") for name in names])
        with formatter.section("Other options"):
            formatter.write_dl(list(left.values()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; add a suggestion to an error about a path that does not exist."""
        if self._writes_files:
            treat_output_as_log()
        if limit := describe_address_limit():  # first: native libraries may end the process without a word of it
            click.echo(f"NOTE {limit}", err=True)
        use_names(flags_for(self))
        try:
            with tell_activities(not ctx.params.get("quiet", False)):
                return super().invoke(ctx)
        except AlexstreamError as error:
            for path in _find_missing_paths(ctx.params.values()):
                if str(path) in str(error) and path.parent.is_dir():
                    error.args = (f"{error}{suggest_match(path.name, os.listdir(path.parent))}",)
            raise


def _help_records(parameters: Iterable[click.Parameter], ctx: click.Context) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the long name of each option with its lines in ``--help``."""
    for parameter in parameters:
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield max(parameter.opts, key=len), record


class Group(click.Group):
    """A group of commands that prints expected errors as one line on stderr.

    Exit codes: 1 for an error, 2 for a wrong command line, 130 for Ctrl-C, 143 for SIGTERM. Programming errors keep
    their traceback.
    """

    command_class = Command

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text, with examples by the name under which the program was started."""
        return name_program(super().get_help(ctx))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the commands are used, not alphabetically."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command named by ``args``; suggest a similar one in the error if there is none."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{suggest_match(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    @guard_streams()
    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run ``args``, or the command line of this process."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        with handle_interrupts(owns_process=args is None):
            try:
                self._run(args, **extra)
            finally:
                use_names({})  # of whoever calls the library next in this process

    def _run(self, args: Sequence[str] | None, **extra: Any) -> None:
        try:
            super().main(args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else program_name()
            exit_with_error(f"{error.format_message()} (see: {path} --help)", 2)
        except click.ClickException as error:
            exit_with_error(error.format_message(), error.exit_code)
        except AlexstreamError as error:
            exit_with_error(explain_process_limit(error) or str(error), 1)
        except (click.Abort, KeyboardInterrupt) as error:
            if isinstance(error.__cause__, EOFError):  # click takes that of a pipe for Ctrl-D; nothing is asked here
                self._exit_with_exception(error.__cause__)
            if limit := describe_address_limit():  # a thread that OpenBLAS cannot start is a SIGINT, too
                exit_with_error(f"interrupted, or a library could start no thread: {limit}", 130)
            more = str(error.__cause__ or error)  # click turns KeyboardInterrupt into Abort
            by_signal = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
            exit_with_error("; ".join(filter(None, (INTERRUPTED_MESSAGE, more))), 143 if by_signal else 130)
        except Exception as error:
            self._exit_with_exception(error)

    def _exit_with_exception(self, error: Exception) -> NoReturn:
        """Print one line for an error that is not the program's; raise it if it may be one of programming."""
        if limit := explain_process_limit(error):
            exit_with_error(limit, 1)
        if is_store_error(error):
            reason = (str(error) or type(error).__name__).splitlines()[0]
            exit_with_error(f"{reason} {_STORE_ADVICE}", 1)
        if isinstance(error, OSError):
            exit_with_error(_describe_os_error(error), 1)
        if limit := describe_address_limit():  # under which libraries fail in every way there is
            exit_with_error(f"{(str(error) or type(error).__name__).splitlines()[0]}; {limit}", 1)
        raise error


command = functools.partial(click.command, cls=Command)
_STORE_ADVICE = "(from the object store; check its address and keys)"


def name_program(text: str) -> str:
    """Return a help text with ``cli.py COMMAND`` as the user types it: ``python cli.py``, ``alexstream`` …"""
    name = program_name()
    return _PROGRAM.sub(name, text if name == "python cli.py" else text.replace("-- cli.py ", "-m alexstream "))


def exit_with_error(message: str, exit_code: int) -> NoReturn:
    """Print a one-line error on stderr and exit."""
    click.echo(f"Error: {to_one_line(to_display(message))}", err=True)
    sys.exit(exit_code)


def _describe_os_error(error: OSError) -> str:
    """Describe an error of the operating system: which path, and why."""
    if error.filename is None or error.strerror is None:
        return str(error)
    if "://" in str(error.filename):
        return f"{error.filename}: {error.strerror} {_STORE_ADVICE}"
    return f"{error.filename}: {error.strerror}; fix that and run the same command again"


def suggest_match(word: str, known: Any) -> str:
    """Return ``; did you mean 'train'?`` for the most similar known word, or "" if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _find_missing_paths(values: Iterable[Any]) -> Iterator[Path]:
    """Yield those values that are local paths and do not exist."""
    for value in values:
        if type(value) is type(Path()) and not value.exists():
            yield value


def format_effective_config(context: click.Context, leave_out: tuple[str, ...] = ()) -> str:
    """Return the options that a command runs with as TOML that ``--config`` reads; unset options are left out."""
    lines = [f"# alexstream {version('alexstream')}, options of {context.command_path}; for --config"]
    for name, option in _options_by_name(context.command).items():
        value = context.params.get(str(option.name))
        if type(value) is type(Path()):  # not a place in a store; a relative one means nothing in another folder
            value = value.absolute()
        if name not in leave_out and option.expose_value and value is not None and value != ():
            lines.append(f"{name} = {_format_toml(value)}")
    return "\n".join(lines) + "\n"


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        load_config(context, path)


def load_config(context: click.Context, path: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Make a TOML file's values the defaults of this command's options, except those named in ``leave_out``.

    Raises click.UsageError if the file is not TOML, names an unknown option, or holds a table or list where one value
    is expected.
    """
    try:
        with path.open("rb") as file:
            found = parse_toml(file.read(MAX_BYTES + 1))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"{path}: cannot be read as TOML ({reason})", context) from error
    options = _options_by_name(context.command)
    for name, value in found.items():
        if name not in options:
            raise click.UsageError(
                f"{path}: {context.info_name} has no option {name!r}{suggest_match(name, options)}", context
            )
        if options[name].is_flag and not isinstance(value, bool):
            raise click.UsageError(f"{path}: {name} is {value!r}, expected true or false", context)
        if isinstance(value, dict) or (isinstance(value, list) and not options[name].multiple):
            raise click.UsageError(f"{path}: {name} is {value!r}, expected one value", context)
    defaults = {
        str(options[name].name): _to_option_default(options[name], value)
        for name, value in found.items()
        if name not in leave_out
    }
    context.default_map = {**(context.default_map or {}), **defaults}


def _to_option_default(option: click.Option, value: Any) -> Any:
    """Convert a TOML value to the text that would be typed, so that the option's own type checks it."""
    if option.multiple:
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    return value if option.is_flag else str(value)


def _options_by_name(of: click.Command) -> dict[str, click.Option]:
    """Return the options by their long names without dashes, in the order of ``--help``."""
    return {
        max(option.opts, key=len).lstrip("-"): option
        for option in of.params
        if isinstance(option, click.Option) and "--config" not in option.opts
    }


def _format_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_format_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False)


def iter_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name: ``shard``, ``bench``, ``bench shard``."""
    for name, found in group.commands.items():
        yield prefix + name, found
        if isinstance(found, click.Group):
            yield from iter_commands(found, f"{prefix}{name} ")
