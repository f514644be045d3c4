"""`modelflow serve`: the sidecar from the command line; every option can be set in the environment, too."""

import math
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from serving.following import FollowerSettings
from serving.log import LogSettings
from serving.settings import ChallengerSettings, Limits, Settings, default_tracking_uri

_LIMITS = Limits()
_LOG_BYTES = 1024 * 1024 * 1024


class _Finite(click.FloatRange):
    """A number within bounds; `nan` compares with none of them, so a plain range lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or fail with what was expected and found."""
        read = super().convert(value, param, ctx)
        if not math.isfinite(read):
            self.fail(f"expected a finite number, found {value}.", param, ctx)
        return read


_SECONDS, _SHARE = _Finite(min=0, min_open=True), _Finite(0, 1)


def _option(name: str, text: str, **bounds: Any) -> typer.models.OptionInfo:
    """Describe an option that can be set as MODELFLOW_SERVE_<NAME>, too."""
    option: typer.models.OptionInfo = typer.Option(help=text, envvar=f"MODELFLOW_SERVE_{name}", **bounds)
    return option


def serve(  # noqa: PLR0913, PLR0917 - a command's options
    uri: Annotated[str, typer.Argument(help="the model address, e.g. models:/flight_delays/Production")],
    tracking_uri: Annotated[
        str | None, _option("TRACKING_URI", "the MLflow registry; default: MLFLOW_TRACKING_URI")
    ] = None,
    host: Annotated[str, _option("HOST", "the address to listen on")] = "127.0.0.1",
    port: Annotated[int, _option("PORT", "the port to listen on", min=0, max=65535)] = 8080,
    workers: Annotated[int, _option("WORKERS", "processes that answer, and swap together", min=1)] = 1,
    poll_interval: Annotated[
        float, _option("POLL_INTERVAL", "seconds between two looks at the registry", click_type=_SECONDS)
    ] = 1.0,
    registry_timeout: Annotated[
        float, _option("REGISTRY_TIMEOUT", "seconds a request to it may take", click_type=_SECONDS)
    ] = 5.0,
    cache: Annotated[Path | None, _option("CACHE", "a folder of its own for the last good package")] = None,
    accept_new_signature: Annotated[
        bool, _option("ACCEPT_NEW_SIGNATURE", "follow to versions that need columns the served one does not")
    ] = False,
    refuse_extra: Annotated[
        bool, _option("REFUSE_EXTRA", "refuse columns the model does not take, instead of ignoring them")
    ] = False,
    max_staleness: Annotated[
        float | None,
        _option(
            "MAX_STALENESS", "not ready while the newest example learned is older, in seconds", click_type=_SECONDS
        ),
    ] = None,
    max_body_bytes: Annotated[int, _option("MAX_BODY_BYTES", "the largest body", min=1)] = _LIMITS.body_bytes,
    max_rows: Annotated[int, _option("MAX_ROWS", "the most rows in one request", min=1)] = _LIMITS.rows,
    max_in_flight: Annotated[int, _option("MAX_IN_FLIGHT", "the most requests at once", min=1)] = _LIMITS.in_flight,
    max_queue: Annotated[
        int, _option("MAX_QUEUE", "the most large requests waiting to be scored", min=1)
    ] = _LIMITS.queue,
    deadline: Annotated[
        float, _option("DEADLINE", "seconds a request may take to arrive, to wait, and to be read", click_type=_SECONDS)
    ] = _LIMITS.deadline_s,
    tokens: Annotated[Path | None, _option("TOKENS", "a file of bearer tokens, one a line; reloaded")] = None,
    certificate: Annotated[Path | None, _option("CERTIFICATE", "a PEM file: speak TLS, with --key")] = None,
    key: Annotated[Path | None, _option("KEY", "the certificate's key, a PEM file")] = None,
    log: Annotated[Path | None, _option("LOG", "a folder of its own: log predictions there, as Parquet")] = None,
    log_share: Annotated[
        float, _option("LOG_SHARE", "the share of requests that are logged, 0 to 1", click_type=_SHARE)
    ] = 1.0,
    log_bytes: Annotated[int, _option("LOG_BYTES", "how large that folder may become", min=1)] = _LOG_BYTES,
    log_key: Annotated[str, _option("LOG_KEY", "the column by which labels are joined to what was logged")] = "key",
    challenger: Annotated[
        str | None, _option("CHALLENGER", "a second model address, e.g. models:/flight_delays/Staging")
    ] = None,
    shadow_share: Annotated[
        float, _option("SHADOW_SHARE", "the share of requests it scores, too; needs --log", click_type=_SHARE)
    ] = 0.0,
    canary_share: Annotated[
        float, _option("CANARY_SHARE", "the share of X-Canary-Key values it answers", click_type=_SHARE)
    ] = 0.0,
    access_log: Annotated[bool, _option("ACCESS_LOG", "log every request as a line of JSON")] = False,
    die_with_parent: Annotated[int | None, typer.Option(help="end when this parent process is gone", min=1)] = None,
) -> None:
    """Serve a model flow over HTTP and follow it."""
    from serving.sidecar import run

    code = run(
        Settings(
            uri=uri,
            tracking_uri=tracking_uri or default_tracking_uri(),
            host=host,
            port=port,
            workers=workers,
            parent=die_with_parent,
            access_log=access_log,
            log=LogSettings(log, log_share, log_bytes, key=log_key) if log else None,
            challenger=ChallengerSettings(challenger, shadow_share, canary_share) if challenger else None,
            tokens=tokens,
            certificate=certificate,
            key=key,
            follower=FollowerSettings(
                poll_interval_s=poll_interval,
                registry_timeout_s=registry_timeout,
                cache=cache,
                accept_new_signature=accept_new_signature,
                refuse_extra=refuse_extra,
                max_staleness_s=max_staleness,
            ),
            limits=Limits(
                body_bytes=max_body_bytes,
                rows=max_rows,
                in_flight=max_in_flight,
                queue=max_queue,
                deadline_s=deadline,
            ),
        )
    )
    if code:
        raise typer.Exit(code)
