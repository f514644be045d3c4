"""The command line: what it offers is listed at once, and in each command's own words."""

import inspect
import subprocess
import sys

import click
import pytest

from orchestration.cli import _Gathered, _offered

_HEAVY = ("mlflow", "sklearn", "dagster", "numba", "duckdb")


def test_the_list_of_commands_loads_none_of_them() -> None:
    """Loading all of them took seven seconds, for the first thing that is typed."""
    script = (
        "import sys; from orchestration.cli import main; sys.argv = ['modelflow', '--help']\n"
        "try: main()\n"
        f"except SystemExit: print([name for name in {_HEAVY} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.splitlines()[-1] == "[]"
    assert "List the versions of a flow." in told


@pytest.mark.parametrize("name", sorted(_offered()))
def test_a_command_is_listed_in_its_own_words(name: str) -> None:
    """What is read in the source is what the function says of itself."""
    group = _Gathered(name="modelflow")
    context = click.Context(group)
    group.format_help(context, context.make_formatter())
    listed = group.get_command(context, name)
    assert listed is not None
    assert listed.help == inspect.getdoc(_offered()[name].load())


def test_arguments_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Between two libraries what is said of an argument can get lost."""
    group = _Gathered(name="modelflow")
    command = group.get_command(click.Context(group), "versions")
    assert command is not None
    context = click.Context(command)
    command.format_help(context, context.make_formatter())
    assert "the flow, by its name" in capsys.readouterr().out
