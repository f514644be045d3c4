"""Records as facts: what a record has to be, and the reason when it is not.

A record holds one fact as a JSON object, or many as an Arrow IPC stream; which of the two, its first bytes say. A
column that a fact lacks is null, and one the flow does not declare is ignored, so producers may add and drop columns.
Whatever could stop a later step (a number float32 cannot hold, an instant from the future) is refused here, by itself;
the records around it are read.

======== ========================================================================
string   a JSON string
float    a JSON number within float32's range
integer  a JSON number without a fraction, 64 bits
boolean  true or false
instant  ISO 8601 with its zone, ``2024-05-01T12:00:00Z``
======== ========================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_core.project import ColumnKind, Flow

INSTANT: Final = pa.timestamp("us", tz="UTC")
THROUGH: Final = "modelflow-through"
"""The header of a tick: a record without a fact that says its partition is complete through an instant."""

_TYPES: Final[Mapping[ColumnKind, tuple[pa.DataType, set[type]]]] = {
    "string": (pa.string(), {str, type(None)}),
    "float": (pa.float64(), {float, int, type(None)}),
    "integer": (pa.int64(), {int, type(None)}),
    "boolean": (pa.bool_(), {bool, type(None)}),
    "instant": (INSTANT, {str, type(None)}),
}
_UNFIT: Final = (pa.ArrowException, TypeError, ValueError, OverflowError)
_INSTANT: Final = r"^\d{4}-\d\d-\d\d"
_ARROW: Final = b"\xff\xff\xff\xff"
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_TOLD: Final = 200


class Record(Protocol):
    """The part of a Kafka record that is read."""

    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a fact of one kind holds.

    Attributes
    ----------
    kinds : mapping of str to ColumnKind
        Every column, `event_time` and `known_at` first.
    required : tuple of str
        Those that may not be null. `known_at` may: it is then when the record was made.
    """

    kinds: Mapping[str, ColumnKind]
    required: tuple[str, ...]
    max_ahead_us: int
    max_bytes: int

    @classmethod
    def of(cls, flow: Flow, kind: str) -> "Columns":
        """Return the columns of a kind of fact as the flow declares them."""
        declared: dict[str, ColumnKind] = {"event_time": "instant", "known_at": "instant"}
        declared |= flow.stream.facts[kind]
        needed = ["event_time", flow.data.key] + [flow.data.request_time] * (kind == flow.data.entity)
        ahead = round(flow.stream.max_ahead.total_seconds() * 1e6)
        required = tuple(name for name in needed if name in declared)
        return cls(declared, required, ahead, flow.stream.max_record_bytes)

    def empty(self) -> pa.Table:
        """Return no facts, with every column."""
        return pa.table({name: pa.array([], _TYPES[kind][0]) for name, kind in self.kinds.items()})


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is no fact, and why."""

    record: Record
    reason: str


def tick_of(record: Record) -> int | None:
    """Return the microsecond a tick says its partition is complete through; None for a record that is no tick."""
    told = dict(record.headers).get(THROUGH) if record.headers else None
    if told is None:
        return None
    try:
        return int(pa.scalar(told.decode()).cast(INSTANT).value)
    except (UnicodeDecodeError, pa.ArrowException):
        return None


def apart(records: Sequence[Record], columns: Columns) -> tuple[Sequence[Record], list[tuple[int, int]], list[Refused]]:
    """Take the ticks out of the records of one Kafka partition, in the order of their offsets.

    A tick is held to `max_ahead` as a fact is: nothing takes back what one from far in the future says.

    Returns
    -------
    others : sequence of Record
        Those that are no ticks.
    ticks : list of (int, int)
        How many of `others` came before each, and the microsecond it tells.
    refused : list of Refused
        Ticks that are too far ahead of the record that tells them.
    """
    ticks: list[tuple[int, int]] = []
    refused: list[Refused] = []
    others = []
    for record in records:
        if (tick := tick_of(record)) is None:
            others.append(record)
        elif tick > record.timestamp * 1000 + columns.max_ahead_us:
            refused.append(Refused(record, f"{THROUGH!r} lies in the future of the record that tells it"))
        else:
            ticks.append((len(others), tick))
    return others, ticks, refused


def read_facts(records: Sequence[Record], columns: Columns) -> tuple[pa.Table, NDArray[np.int64], list[Refused]]:
    """Read records of one Kafka partition, in the order of their offsets.

    Returns
    -------
    facts : pyarrow.Table
        The columns of `columns`; `known_at` is never null.
    places : ndarray of int64, shape (n_facts,)
        Which of `records` each came from.
    refused : list of Refused
    """
    parts: list[tuple[pa.Table, NDArray[np.int64]]] = []
    refused: list[Refused] = []
    rows: list[Mapping[str, Any]] = []
    places: list[int] = []

    def take_rows() -> None:
        if rows:
            parts.append(_columns_of(rows, places, records, columns, refused))
            rows.clear()
            places.clear()

    for place, record in enumerate(records):
        value = record.value
        if value is None:
            refused.append(Refused(record, "no value"))
        elif len(value) > columns.max_bytes:
            refused.append(Refused(record, f"{len(value)} bytes, at most {columns.max_bytes} taken"))
        elif value.startswith(_ARROW):
            take_rows()
            _take_arrow(place, records, columns, parts, refused)
        else:
            try:
                row = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                refused.append(Refused(record, f"not JSON: {error}"))
                continue
            if isinstance(row, dict):
                rows.append(row)
                places.append(place)
            else:
                refused.append(Refused(record, f"expected a JSON object, found {type(row).__name__}"))
    take_rows()
    if not parts:
        return columns.empty(), np.empty(0, np.int64), refused
    return pa.concat_tables([part for part, _ in parts]), np.concatenate([of for _, of in parts]), refused


def _columns_of(
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[int],
    records: Sequence[Record],
    columns: Columns,
    refused: list[Refused],
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Turn JSON objects into columns; those with a value that does not fit are refused and left out."""
    reasons: dict[int, str] = {}
    arrays = {}
    for name, kind in columns.kinds.items():
        values = [row.get(name) for row in rows]
        arrays[name], unfit = _column(values, kind)
        for row in unfit:
            reasons.setdefault(row, f"{name!r}: expected {kind}, found {values[row]!r}"[:_TOLD])
    table = pa.table(arrays)
    at = np.array(places, np.int64)
    table, wrong = _checked(table, at, records, columns)
    reasons = wrong | reasons
    refused.extend(Refused(records[places[row]], reason) for row, reason in sorted(reasons.items()))
    if reasons:
        kept = np.ones(len(rows), bool)
        kept[list(reasons)] = False
        table, at = table.filter(pa.array(kept)), at[kept]
    return table, at


def _column(values: list[Any], kind: ColumnKind) -> tuple[pa.Array, list[int]]:
    """Return the values as a column, and the rows whose value does not fit, which are null in it."""
    try:
        return _converted(values, kind), []
    except _UNFIT:
        pass
    # a few among many: what cannot fit is taken out first, so that the others go through as one column
    allowed = _TYPES[kind][1]
    odd = np.zeros(len(values), bool)
    if not allowed.issuperset(map(type, values)):
        odd[:] = [type(value) not in allowed for value in values]
    if kind == "instant":
        texts = pa.array(values, pa.string(), mask=odd)
        odd |= ~pc.match_substring_regex(texts, _INSTANT).fill_null(True).to_numpy(zero_copy_only=False)
    unfit = np.flatnonzero(odd).tolist()
    usual = values.copy()
    for row in unfit:
        usual[row] = None
    array, more = _searched(usual, kind)
    return array, [*unfit, *more]


def _searched(values: list[Any], kind: ColumnKind) -> tuple[pa.Array, list[int]]:
    """Do as `_column` does, by halves."""
    try:
        return _converted(values, kind), []
    except _UNFIT:
        if len(values) == 1:
            return pa.nulls(1, _TYPES[kind][0]), [0]
        half = len(values) // 2
        (left, unfit), (right, more) = _searched(values[:half], kind), _searched(values[half:], kind)
        return pa.concat_arrays([left, right]), [*unfit, *(half + row for row in more)]


def _converted(values: list[Any], kind: ColumnKind) -> pa.Array:
    dtype, allowed = _TYPES[kind]
    if not set(map(type, values)) <= allowed:
        raise TypeError
    if kind == "instant":
        return pa.array(values, pa.string()).cast(dtype)
    array = pa.array(values, dtype)
    if kind == "float" and len(array) > array.null_count and pc.max(pc.abs(array)).as_py() > _FLOAT32_MAX:
        raise OverflowError
    return array


def _checked(
    table: pa.Table, places: NDArray[np.int64], records: Sequence[Record], columns: Columns
) -> tuple[pa.Table, dict[int, str]]:
    """Fill in when facts were known; return the rows that lack something, or are known before their time."""
    made = np.array([records[place].timestamp for place in places], np.int64) * 1000
    known = pc.fill_null(table.column("known_at").cast(pa.int64()), pa.array(made)) if len(table) else None
    reasons: dict[int, str] = {}
    for name in columns.required:
        if table.column(name).null_count:
            for row in np.flatnonzero(table.column(name).is_null().to_numpy(zero_copy_only=False)):
                reasons.setdefault(int(row), f"{name!r}: expected a value, found none")
    if known is None:
        return table, reasons
    instants = known.to_numpy()
    for row in np.flatnonzero(instants > made + columns.max_ahead_us):
        reasons.setdefault(int(row), "'known_at' lies in the future of the record that tells it")
    position = table.schema.get_field_index("known_at")
    return table.set_column(position, "known_at", known.cast(INSTANT)), reasons


def _take_arrow(
    place: int,
    records: Sequence[Record],
    columns: Columns,
    parts: list[tuple[pa.Table, NDArray[np.int64]]],
    refused: list[Refused],
) -> None:
    """Read a record that holds many facts; one that does not fit refuses them all."""
    record = records[place]
    try:
        with pa.ipc.open_stream(record.value) as stream:
            read = stream.read_all()
        read.validate(full=True)
        arrays = {}
        for name, kind in columns.kinds.items():
            dtype = _TYPES[kind][0]
            held = name in read.column_names
            arrays[name] = read.column(name).cast(dtype) if held else pa.nulls(read.num_rows, dtype)
            if held and kind == "float" and pc.any(pc.greater(pc.abs(arrays[name]), _FLOAT32_MAX)).as_py():
                raise pa.ArrowInvalid(f"{name!r} holds a number beyond float32")
        table, at = pa.table(arrays), np.full(read.num_rows, place, np.int64)
        table, reasons = _checked(table, at, records, columns)
    except (pa.ArrowException, KeyError) as error:
        refused.append(Refused(record, f"not an Arrow stream of these columns: {error}"[:_TOLD]))
        return
    if reasons:
        row, reason = min(reasons.items())
        refused.append(Refused(record, f"row {row} of its {read.num_rows}: {reason}"))
    else:
        parts.append((table, at))


def write_json(facts: pa.Table) -> list[bytes]:
    """Return each fact as a JSON record; what `read_facts` reads back."""
    shown = facts
    for position, field in enumerate(facts.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.strftime(facts.column(position).cast(INSTANT), format="%Y-%m-%dT%H:%M:%SZ")
            shown = shown.set_column(position, field.name, text)
    return [orjson.dumps(row) for row in shown.to_pylist()]


def write_arrow(facts: pa.Table) -> bytes:
    """Return facts as one Arrow record."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, facts.schema) as stream:
        stream.write_table(facts)
    return bytes(sink.getvalue())
