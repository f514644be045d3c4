"""`modelflow serve`: the sidecar from the command line."""

from pathlib import Path
from typing import Annotated

import typer

from serving.settings import Settings


def serve(  # noqa: PLR0917 - a command's options
    uri: Annotated[str, typer.Argument(help="the model address, e.g. models:/flight_delays/Production")],
    tracking_uri: Annotated[str, typer.Option(help="the MLflow registry")] = "http://127.0.0.1:5000",
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on")] = 8080,
    poll_interval: Annotated[float, typer.Option(help="seconds between two looks at the registry")] = 1.0,
    cache: Annotated[Path | None, typer.Option(help="a folder for the last good package")] = None,
    die_with: Annotated[int | None, typer.Option(help="end when this parent process is gone")] = None,
) -> None:
    """Serve a model flow over HTTP and follow it."""
    from serving.sidecar import run

    run(
        Settings(
            uri=uri,
            tracking_uri=tracking_uri,
            host=host,
            port=port,
            poll_interval_s=poll_interval,
            cache=cache,
            parent=die_with,
        )
    )
