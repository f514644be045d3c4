"""`python -m serving <uri> ...`, the same as `modelflow serve`."""

import sys

import typer

from ml_core.errors import ModelFlowError
from serving.cli import serve

if __name__ == "__main__":
    try:
        typer.run(serve)
    except ModelFlowError as error:
        sys.exit(f"error: {error}")
