"""What people type at a command line, read alike by every command."""

from datetime import datetime

import typer

from ml_core.clock import as_instant


def typed_instant(text: str) -> datetime:
    """Read an instant that was typed; the command ends with a line on how to write one when it is none."""
    try:
        return as_instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
