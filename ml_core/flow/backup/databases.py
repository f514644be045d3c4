"""A database dumped and loaded by its own means: sqlite's online backup, PostgreSQL's pg_dump and pg_restore."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from ml_core.errors import BackupError

_LONGEST_S = 3600
# where MLflow writes down where a run's or a version's artifacts lie
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


def kind_of(uri: str) -> str:
    """Return ``sqlite`` or ``postgresql``; raise BackupError for anything else."""
    if uri.startswith("sqlite:///"):
        return "sqlite"
    if uri.startswith("postgresql"):
        return "postgresql"
    raise BackupError(
        f"expected a database such as sqlite:///... or postgresql://..., found {uri!r}; a tracking server does not tell"
        " its own: name it with --database"
    )


def require(uri: str) -> None:
    """Raise BackupError where a database that is a file is not there."""
    if kind_of(uri) == "sqlite" and not Path(uri.removeprefix("sqlite:///")).exists():
        raise BackupError(f"expected a database at {uri}, found none; name the registry's with --database")


def dump(uri: str, target: Path) -> None:
    """Write everything that is in a database now into one file, while others go on using it."""
    if kind_of(uri) == "sqlite":
        source = Path(uri.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
        return
    _run(uri, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")


def require_empty(uri: str) -> None:
    """Raise BackupError where something is in a database already."""
    if kind_of(uri) == "sqlite":
        if Path(uri.removeprefix("sqlite:///")).exists():
            raise BackupError(f"expected no database at {uri} yet; restore into an empty place")
        return
    engine = sa.create_engine(uri)
    try:
        found = sa.inspect(engine).get_table_names()
    except sa.exc.OperationalError as error:
        raise BackupError(f"expected an empty database, found none that answers: {error}") from error
    finally:
        engine.dispose()
    if found:
        shown = engine.url.render_as_string(hide_password=True)
        raise BackupError(f"{shown}: expected an empty database, found the tables {found[:3]}; restore into a new one")


def load(uri: str, source: Path) -> None:
    """Put a dump into an empty database."""
    if kind_of(uri) == "sqlite":
        target = Path(uri.removeprefix("sqlite:///"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return
    _run(uri, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", str(source))


def move_artifacts(uri: str, before: str, now: str) -> int:
    """Let a registry's database speak of the artifacts at their new place; return how many entries changed.

    Where a server hands artifacts out, its database names no place, and nothing changes.
    """
    engine = sa.create_engine(uri)
    changed = 0
    try:
        known = set(sa.inspect(engine).get_table_names())
        with engine.begin() as connection:
            for table, column in _LOCATIONS:
                if table not in known or column not in {each["name"] for each in sa.inspect(engine).get_columns(table)}:
                    continue
                entries = sa.table(table, sa.column(column))
                place = entries.c[column]
                statement = (
                    sa.update(entries)
                    .where(place.startswith(before, autoescape=True))
                    .values({column: sa.literal(now) + sa.func.substr(place, len(before) + 1)})
                )
                changed += connection.execute(statement).rowcount
    finally:
        engine.dispose()
    return changed


def _run(uri: str, program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on a database; a password goes by the environment, where nobody lists it."""
    url = sa.make_url(uri)
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    if shutil.which(program) is None:
        raise BackupError(f"expected {program} on the path, found none; on Debian: apt-get install postgresql-client")
    made = subprocess.run(  # noqa: S603 - PostgreSQL's own program, on the database that was named
        [program, f"--dbname={address}", *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=_LONGEST_S,
    )  # fmt: skip
    if made.returncode:
        raise BackupError(f"{program}: {made.stderr.strip()[-600:]}")
