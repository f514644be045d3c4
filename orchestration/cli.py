"""`modelflow`: gathers the commands every room offers, and loads one only when it is called.

A room offers a command as an entry point of the group `modelflow.commands`; no room imports another's. An error that is
raised on purpose ends the command with one line and code 2, anything else with its traceback.
"""

import ast
import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

from ml_core.errors import ModelFlowError

GROUP = "modelflow.commands"
_LISTING = "modelflow.listing"


class _Gathered(TyperGroup):
    """A group whose commands are looked up by entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, without loading any."""
        del ctx
        return sorted(_offered())

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, without loading any."""
        ctx.meta[_LISTING] = True
        super().format_help(ctx, formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command, or, while they are listed, only what it says of itself."""
        offered = _offered().get(cmd_name)
        if offered is None:
            return None
        if ctx.meta.get(_LISTING):
            return click.Command(cmd_name, help=_docstring(offered))
        app = typer.Typer(add_completion=False)
        app.command(cmd_name)(offered.load())
        return get_command(app)


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _docstring(offered: EntryPoint) -> str | None:
    """Read what a command says of itself in its source, since loading all of them takes seconds."""
    package, *modules = offered.module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"expected the package {package}, which offers `modelflow {offered.name}`")
    file = Path(spec.submodule_search_locations[0], *modules).with_suffix(".py")
    functions = [node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    return next(ast.get_docstring(function) for function in functions if function.name == offered.attr)


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
