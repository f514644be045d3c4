"""What every table of the project file is, and the values that several of them hold."""

from datetime import timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ml_core.clock import as_duration


def _duration(text: object) -> object:
    """Read '7 days' or '90 minutes'; leave anything else to the model's own check."""
    return as_duration(text) if isinstance(text, str) else text


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as unknown:
        raise ValueError(f"expected a time zone such as 'Europe/Berlin', found {name!r}") from unknown
    return name


Duration = Annotated[timedelta, BeforeValidator(_duration)]
TimeZone = Annotated[str, AfterValidator(_known_zone)]
Port = Annotated[int, Field(ge=1, le=65535)]
ColumnKind = Literal["string", "float", "integer", "boolean", "instant"]


class Table(BaseModel):
    """One table of the project file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
