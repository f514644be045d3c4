"""`modelflow`: gathers the commands every room offers, and loads one only when it is called.

A room offers a command as an entry point of the group `modelflow.commands`; no room imports another's. An error that is
raised on purpose ends the command with one line and code 2, anything else with its traceback.
"""

import sys
from importlib.metadata import EntryPoint, entry_points

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

from ml_core.errors import ModelFlowError

GROUP = "modelflow.commands"


class _Gathered(TyperGroup):
    """A group whose commands are looked up by entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, without loading any."""
        del ctx
        return sorted(_offered())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        del ctx
        offered = _offered().get(cmd_name)
        if offered is None:
            return None
        app = typer.Typer(add_completion=False)
        app.command(cmd_name)(offered.load())
        return get_command(app)


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def main() -> None:
    """Run the command line."""
    group = _Gathered(name="modelflow", help="Keep a served model as fresh as its data.", no_args_is_help=True)
    try:
        group(standalone_mode=True)
    except ModelFlowError as error:
        sys.exit(_failed(error))


def _failed(error: ModelFlowError) -> int:
    typer.echo(f"error: {error}", err=True)
    return 2
