"""``completion``: print a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from alexstream.commands.group import command

PROGRAM = "alexstream"


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete the commands and options of ``alexstream``.

    \b
    Examples:
      cli.py completion bash >> ~/.bashrc
      cli.py completion zsh >> ~/.zshrc
      cli.py completion fish > ~/.config/fish/completions/alexstream.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(context.find_root().command, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
