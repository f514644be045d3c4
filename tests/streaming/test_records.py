"""What a record has to be."""

from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.streaming.records import INSTANT, THROUGH, Columns, apart, read_facts, tick_of, write_arrow, write_json

MADE = 1_714_564_800_000  # noon of 2024-05-01, in milliseconds
COLUMNS = Columns(
    {"event_time": "instant", "known_at": "instant", "order_id": "string", "days": "integer", "price": "float"},
    required=("event_time", "order_id"),
    max_ahead_us=3_600_000_000,
    max_bytes=1_000,
)
GOOD = {"event_time": "2024-05-01T11:00:00Z", "order_id": "a", "days": 3, "price": 1.5}


@dataclass
class Record:
    """What is read of a Kafka record."""

    value: bytes | None
    offset: int = 0
    timestamp: int = MADE
    headers: list[tuple[str, bytes]] = field(default_factory=list)


BAD = {
    "not JSON": b"{",
    "no value": None,
    "a list": b"[1]",
    "too large": orjson.dumps(GOOD | {"order_id": "x" * 2_000}),
    "a string for a number": orjson.dumps(GOOD | {"days": "3"}),
    "a fraction for an integer": orjson.dumps(GOOD | {"days": 2.5}),
    "an integer beyond 64 bits": orjson.dumps(GOOD).replace(b":3", b":36893488147419103232"),
    "true for a number": orjson.dumps(GOOD | {"price": True}),
    "a number beyond float32": orjson.dumps(GOOD | {"price": 1e39}),
    "a number for a string": orjson.dumps(GOOD | {"order_id": 7}),
    "no key": orjson.dumps({name: value for name, value in GOOD.items() if name != "order_id"}),
    "no event time": orjson.dumps(GOOD | {"event_time": None}),
    "an instant without a zone": orjson.dumps(GOOD | {"event_time": "2024-05-01T11:00:00"}),
    "an instant that is none": orjson.dumps(GOOD | {"event_time": "soon"}),
    "known in the future": orjson.dumps(GOOD | {"known_at": "2999-01-01T00:00:00Z"}),
    "half of an Arrow stream": write_arrow(pa.table({"order_id": ["a"]}))[:80],
    "an Arrow stream without event times": write_arrow(pa.table({"order_id": ["a"]})),
    "an Arrow stream of other types": write_arrow(
        pa.table({"order_id": ["a"], "event_time": pa.array([0], INSTANT), "days": ["many"]})
    ),
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_bad_record_is_refused_with_a_reason_and_the_ones_beside_it_are_read(value: bytes | None) -> None:
    """One producer's mistake must not cost another's facts."""
    records = [Record(orjson.dumps(GOOD | {"order_id": "first"})), Record(value), Record(orjson.dumps(GOOD))]
    facts, places, refused = read_facts(records, COLUMNS)
    assert facts.column("order_id").to_pylist() == ["first", "a"]
    assert places.tolist() == [0, 2]
    assert [letter.record for letter in refused] == [records[1]]
    assert refused[0].reason


_INSTANTS = [
    "2024-05-01T11:00:00Z",
    "2024-05-01",
    "2024-13-01T00:00:00Z",
    "2024-05-01T11:00:00",
    " 2024-05-01",
    "soon",
    "",
]
_ANYTHING = st.sampled_from([*_INSTANTS, "a", None, 3, 2.5, True, 1e39, 2**63 - 1, 2**64 - 1, [], {}])


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS.kinds, _ANYTHING)), max_size=12))
def test_records_read_together_say_what_each_says_alone(changes: list[dict[str, Any]]) -> None:
    """What is odd is looked for in a column as a whole; where it stands may decide nothing."""
    records = [Record(orjson.dumps(GOOD | {"order_id": "a"} | change), place) for place, change in enumerate(changes)]
    facts, places, refused = read_facts(records, COLUMNS)
    alone = [read_facts([record], COLUMNS) for record in records]
    assert facts.to_pylist() == [row for found, _, _ in alone for row in found.to_pylist()]
    assert places.tolist() == [place for place, (found, _, _) in enumerate(alone) if found.num_rows]
    assert {each.record.offset: each.reason for each in refused} == {
        each.record.offset: each.reason for _, _, letters in alone for each in letters
    }


def test_a_reason_names_the_column_and_what_was_found() -> None:
    """Whoever reads the dead letters has to find the producer's mistake."""
    _, _, refused = read_facts([Record(BAD["a string for a number"])], COLUMNS)
    assert refused[0].reason == "'days': expected integer, found '3'"


def test_columns_may_be_added_and_dropped() -> None:
    """A producer is deployed before the flow knows of its new column, and after it forgot an old one."""
    facts, _, refused = read_facts(
        [
            Record(orjson.dumps(GOOD | {"colour": "red"})),
            Record(b'{"event_time":"2024-05-01T11:00:00Z","order_id":"b"}'),
        ],
        COLUMNS,
    )
    assert refused == []
    assert facts.column_names == list(COLUMNS.kinds)
    assert facts.column("days").to_pylist() == [3, None]


def test_what_has_no_known_at_is_known_when_its_record_was_made() -> None:
    """Plain producers do not know our word for it."""
    facts, _, _ = read_facts([Record(orjson.dumps(GOOD))], COLUMNS)
    assert facts.column("known_at").cast(pa.int64()).to_pylist() == [MADE * 1000]


def test_both_forms_read_back_what_was_written() -> None:
    """The form is the producer's choice, record by record."""
    facts, _, _ = read_facts([Record(orjson.dumps(GOOD)), Record(orjson.dumps(GOOD | {"price": None}))], COLUMNS)
    records = [*map(Record, write_json(facts)), Record(write_arrow(facts)), Record(orjson.dumps(GOOD))]
    again, places, refused = read_facts(records, COLUMNS)
    assert refused == []
    assert places.tolist() == [0, 1, 2, 2, 3]
    assert again.slice(0, 2).equals(facts)
    assert again.slice(2, 2).equals(facts)


def test_a_tick_says_how_far_its_partition_is() -> None:
    """It is what a silent producer sends."""
    tick = Record(None, headers=[(THROUGH, b"2024-05-01T12:00:00Z")])
    assert tick_of(tick) == MADE * 1000
    assert tick_of(Record(b"{}")) is None
    assert tick_of(Record(None, headers=[(THROUGH, b"noon")])) is None


def test_a_tick_from_the_future_is_refused_and_the_ones_beside_it_are_taken() -> None:
    """Nothing takes back how far a log was said to be complete."""
    ticks = [Record(None, headers=[(THROUGH, text)]) for text in (b"2024-05-01T13:00:00Z", b"2024-05-01T13:00:01Z")]
    facts = [Record(orjson.dumps(GOOD)), Record(orjson.dumps(GOOD))]
    others, taken, refused = apart([facts[0], *ticks, facts[1], ticks[0]], COLUMNS)
    assert others == facts
    assert taken == [(1, (MADE + 3_600_000) * 1000), (2, (MADE + 3_600_000) * 1000)], "an hour ahead, and no more"
    assert [(letter.record, letter.reason) for letter in refused] == [
        (ticks[1], "'modelflow-through' lies in the future of the record that tells it")
    ]
