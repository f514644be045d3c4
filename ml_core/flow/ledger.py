"""The ledger of a flow: one SQL table that is its history, its lock and its journal.

A row is one transition. It is inserted before the first step of the transition is made and settled after the last one,
so for each flow at most its newest row is *open*. That row is the flow's lock: the next row's number is taken, and
`(flow, entry)` is the primary key, so of two processes that want to go on from the same row one fails to insert. It is
also the journal: it names what is wanted and the step being made, and whoever finds it abandoned, its lease over or its
process gone, carries it out. Rows are never deleted, and a settled one never changes.

Every statement is a single one and means the same on sqlite and PostgreSQL; nothing relies on an isolation level.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ml_core.clock import Clock, SystemClock, as_utc
from ml_core.disk import is_full
from ml_core.errors import DiskFullError, FlowBusyError, ProjectError, RegistryDownError, RegistryError
from ml_core.flow.verdict import Verdict
from ml_core.process import has_ended, this_process

# longer than any single step can take: MLflow's client gives up after three attempts of 30 s
LEASE = timedelta(seconds=120)
DONE, ABANDONED = "done", "abandoned"

_WAIT_FOR_THE_FILE_S = 30.0
_TABLE = sa.Table(
    "modelflow_ledger",
    sa.MetaData(),
    sa.Column("flow", sa.String(256), primary_key=True),
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("begun_at", sa.String(32), nullable=False),
    sa.Column("settled_at", sa.String(32)),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("champion_before", sa.Integer),
    sa.Column("champion", sa.Integer),
    sa.Column("challenger", sa.Integer),
    sa.Column("previous", sa.Integer),
    sa.Column("who", sa.String(256), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("forced", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.Text),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("step", sa.String(32), nullable=False),
    sa.Column("holder", sa.String(160), nullable=False),
    sa.Column("lease_until", sa.String(32), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One transition of a flow, wanted or made.

    Attributes
    ----------
    number : int
        1, 2, 3, ... within the flow; 0 stands for a flow without a history.
    kind : str
        ``promote``, ``refuse``, ``rollback``, ``challenge``, ``retire``, ``restore``, ``align``, ``pin``, ``unpin`` or
        ``delete``.
    version : int or None
        The version it is about.
    before : int or None
        The champion before it.
    champion, challenger, previous : int or None
        What stands where after it.
    forced : bool
        Whether it went past the gate.
    details : mapping
        What else its steps need.
    step : str
        The step being made, or ``done``, or ``abandoned``.
    """

    flow: str
    number: int = 0
    kind: str = ""
    version: int | None = None
    before: int | None = None
    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None
    who: str = ""
    why: str = ""
    forced: bool = False
    verdict: Verdict | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    begun_at: datetime | None = None
    settled_at: datetime | None = None
    step: str = ""
    holder: str = ""
    lease_until: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether it was begun and not settled."""
        return self.number > 0 and self.step not in {DONE, ABANDONED}


class Ledger:
    """The ledger of all flows of one registry.

    Parameters
    ----------
    uri : str
        ``sqlite:///...`` or ``postgresql://...``; the table is made when it is first needed.
    clock : Clock
    """

    def __init__(self, uri: str, *, clock: Clock | None = None) -> None:
        if not uri.startswith(("sqlite:///", "postgresql")):
            raise ProjectError(
                f"expected the ledger in a database such as sqlite:///... or postgresql://..., found {uri!r};"
                " set ledger_uri in the project file"
            )
        self._clock = clock or SystemClock()
        waiting: dict[str, Any] = {}
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            waiting = {"connect_args": {"timeout": _WAIT_FOR_THE_FILE_S}}
        self._engine = sa.create_engine(uri, pool_pre_ping=True, **waiting)
        self._made = False

    # -- reading -------------------------------------------------------------------------------------------------

    def newest(self, flow: str) -> Entry:
        """Return the flow's newest row, open or not; entry 0 when there is none."""
        return self._first(flow)

    def last(self, flow: str) -> Entry:
        """Return the last transition that was made: what stands where by the ledger; entry 0 when there is none."""
        return self._first(flow, _TABLE.c.step == DONE)

    def at(self, flow: str, instant: datetime) -> Entry:
        """Return the last transition made by `instant`: its champion is what the flow served then."""
        return self._first(flow, _TABLE.c.step == DONE, _TABLE.c.settled_at <= _text(instant))

    def entries(self, flow: str, *, limit: int | None = None) -> list[Entry]:
        """Return the newest `limit` rows, or all, oldest first."""
        query = sa.select(_TABLE).where(_TABLE.c.flow == flow).order_by(_TABLE.c.entry.desc()).limit(limit)
        return [_entry(row) for row in self._run(query)][::-1]

    def served(self, flow: str, version: int) -> bool:
        """Say whether a version has ever been champion."""
        return self._first(flow, _TABLE.c.step == DONE, _TABLE.c.champion == version).number > 0

    def became(self, flow: str, version: int, *, by_rollback: bool = True, until: int | None = None) -> Entry:
        """Return the last transition that made `version` champion.

        `by_rollback=False` looks past rollbacks, `until` past the entries after that one.
        """
        return self._first(
            flow,
            _TABLE.c.step == DONE,
            _TABLE.c.champion == version,
            sa.func.coalesce(_TABLE.c.champion_before, 0) != version,
            *(() if by_rollback else (_TABLE.c.kind != "rollback",)),
            *(() if until is None else (_TABLE.c.entry <= until,)),
        )

    # -- the lock and the journal --------------------------------------------------------------------------------

    def begin(self, wanted: Entry, *, after: Entry) -> Entry | None:
        """Insert `wanted` as the row after `after`; return it, held, or None when another process was faster."""
        now = self._clock.now()
        held = replace(
            wanted,
            number=after.number + 1,
            begun_at=now,
            step="begun",
            holder=_holder(),
            lease_until=now + LEASE,
        )
        try:
            self._run(sa.insert(_TABLE).values(_row(held)))
        except sa.exc.IntegrityError:
            return None
        return held

    def mark(self, held: Entry, step: str) -> None:
        """Note the step about to be made and renew the lease; raise FlowBusyError when another process took over."""
        self._update(held, step=step, lease_until=_text(self._clock.now() + LEASE))

    def settle(self, held: Entry, *, step: str = DONE, why: str | None = None) -> Entry:
        """Close the row: it is history now."""
        now = self._clock.now()
        self._update(held, step=step, settled_at=_text(now), why=held.why if why is None else why)
        return replace(held, step=step, settled_at=now, why=held.why if why is None else why)

    def release(self, held: Entry) -> None:
        """Give an unfinished row to whoever comes next."""
        self._update(held, lease_until=_text(self._clock.now() - timedelta(microseconds=1)))

    def take_over(self, abandoned: Entry) -> Entry | None:
        """Hold an open row whose holder is gone; None while its holder lives, or when another process was faster."""
        now = self._clock.now()
        over = abandoned.lease_until is not None and abandoned.lease_until < now
        gone = over or has_ended(abandoned.holder.partition(" ")[0])
        if not gone:
            return None
        holder = _holder()
        try:
            self._update(abandoned, holder=holder, lease_until=_text(now + LEASE))
        except FlowBusyError:
            return None
        return replace(abandoned, holder=holder, lease_until=now + LEASE)

    # -- inside --------------------------------------------------------------------------------------------------

    def _first(self, flow: str, *conditions: sa.ColumnElement[bool]) -> Entry:
        query = sa.select(_TABLE).where(_TABLE.c.flow == flow, *conditions)
        found = self._run(query.order_by(_TABLE.c.entry.desc()).limit(1))
        return _entry(found[0]) if found else Entry(flow)

    def _update(self, held: Entry, **values: Any) -> None:
        mine = (_TABLE.c.flow == held.flow, _TABLE.c.entry == held.number, _TABLE.c.holder == held.holder)
        unsettled = _TABLE.c.step.not_in([DONE, ABANDONED])
        if not self._run(sa.update(_TABLE).where(*mine, unsettled).values(values).returning(_TABLE.c.entry)):
            raise FlowBusyError(
                f"{held.flow}: expected entry {held.number} of the ledger ({held.kind} of version {held.version}) to be"
                " ours, but its lease ran out and another process took it over; it is carried out there"
            )

    def _run(self, statement: sa.Executable) -> list[Any]:
        try:
            if not self._made:
                self._make()
            with self._engine.begin() as connection:
                result = connection.execute(statement)
                return list(result.all()) if result.returns_rows else []
        except sa.exc.OperationalError as error:
            if is_full(error):
                raise DiskFullError(
                    f"{self._engine.url.render_as_string(hide_password=True)}: expected room for an entry,"
                    f" found the disk full ({error.orig}). What is in it is whole: free some space, then run the same"
                    " command again"
                ) from error
            raise RegistryDownError(
                f"{self._engine.url.render_as_string(hide_password=True)}: expected the ledger to answer, found {error}"
            ) from error

    def _make(self) -> None:
        """Make the table; another process may be making it, too."""
        try:
            _TABLE.metadata.create_all(self._engine)
        except (sa.exc.OperationalError, sa.exc.IntegrityError, sa.exc.ProgrammingError):
            if not sa.inspect(self._engine).has_table(_TABLE.name):
                raise
        columns = sa.inspect(self._engine).get_columns(_TABLE.name)
        found, known = {each["name"]: each for each in columns}, {column.name for column in _TABLE.columns}
        foreign = [name for name, each in found.items() if name not in known and not each["nullable"]]
        if foreign or known - found.keys():
            raise RegistryError(
                f"{self._engine.url.render_as_string(hide_password=True)}: expected the table {_TABLE.name} with the"
                f" columns {sorted(known)}, found {sorted(found)}; if a later release wrote it, use that release, or"
                " restore the backup made before it"
            )
        self._made = True


def _holder() -> str:
    """Return a name for one hold of one process."""
    return f"{this_process()} {uuid.uuid4().hex}"


def _text(instant: datetime) -> str:
    """Return an instant as text that sorts as instants do."""
    return as_utc(instant).isoformat(timespec="microseconds")


_DIRECT = ("flow", "kind", "version", "champion", "challenger", "previous", "who", "why", "forced", "step", "holder")
_INSTANTS = ("begun_at", "settled_at", "lease_until")


def _row(entry: Entry) -> dict[str, Any]:
    instants = {name: getattr(entry, name) for name in _INSTANTS}
    return {
        **{name: getattr(entry, name) for name in _DIRECT},
        **{name: None if instant is None else _text(instant) for name, instant in instants.items()},
        "entry": entry.number,
        "champion_before": entry.before,
        "verdict": None if entry.verdict is None else entry.verdict.to_json(),
        "details": json.dumps(dict(entry.details), sort_keys=True),
    }


def _entry(row: Any) -> Entry:
    read: dict[str, Any] = {name: getattr(row, name) for name in _DIRECT}
    for name in _INSTANTS:
        text = getattr(row, name)
        read[name] = None if text is None else datetime.fromisoformat(text)
    return Entry(
        **read,
        number=row.entry,
        before=row.champion_before,
        verdict=None if row.verdict is None else Verdict.from_json(row.verdict),
        details=json.loads(row.details),
    )
