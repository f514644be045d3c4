"""Kafka into the event log, exactly once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.data import FeatureStore
from ml_core.data.log import ARCHIVE, EventLog, source_of
from ml_core.errors import BrokerDownError, StreamError
from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from ml_core.streaming.deadletters import dead_letter_topic
from ml_core.streaming.ingest import Ingester
from ml_core.streaming.records import THROUGH
from tests.data.conftest import arrived, at, ordered
from tests.streaming.orders import labels, orders
from tests.streaming.processes import ProjectOnDisk
from tests.streaming.reading import deleted_before, everything, remade

Send = Callable[..., None]


def facts_in(log: EventLog, kind: str) -> pa.Table:
    """Return every fact of a kind, absorbed or not."""
    files = sorted((log.directory / kind).rglob("*.parquet"), key=lambda file: file.name)
    return pa.concat_tables([pq.read_table(file) for file in files])


def drained(ingester: Ingester) -> Ingester:
    """Step until the topics hold nothing more."""
    while ingester.step().segments or ingester.lag() != 0:
        pass
    return ingester


def test_facts_and_offsets_are_one_commit(broker: Broker, flow: Flow, store: FeatureStore, send: Send) -> None:
    """What a process reads after a crash has to agree with what it already wrote."""
    send("ordered", orders(0, 50))
    drained(Ingester(flow, store.log, broker)).close()
    last = store.log.last("ordered")
    assert last is not None
    source = source_of(last)
    assert source is not None
    assert source["offsets"] == {"0": 50}
    send("ordered", orders(50, 80))
    again = drained(Ingester(flow, store.log, broker))
    assert again.total.facts == 30
    assert facts_in(store.log, "ordered").column("order_id").to_pylist() == [f"o{number:06d}" for number in range(80)]
    again.close()


def test_bad_records_become_dead_letters_and_stop_nothing(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """A record nobody can read would otherwise be read, and fail, for ever."""
    good = orders(0, 20)
    send("ordered", [*good[:10], b"{", None, orjson.dumps({"order_id": 7}), *good[10:]], headers=[("from", b"shop")])
    ingester = drained(Ingester(flow, store.log, broker))
    assert (ingester.total.facts, ingester.total.refused) == (20, 3)
    letters = everything(broker, dead_letter_topic(flow.name))
    assert [letter.key for letter in letters] == [f"{flow.name}.ordered/0/{offset}".encode() for offset in (10, 11, 12)]
    assert [dict(letter.headers)["reason"].split(b":")[0] for letter in letters] == [
        b"not JSON",
        b"no value",
        b"'order_id'",
    ]
    assert letters[0].value == b"{"
    ingester.close()


def test_a_batch_of_nothing_but_bad_records_is_behind_us_too(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """Their offsets are committed although there is no fact to commit them with."""
    send("ordered", [b"{", b"["])
    drained(Ingester(flow, store.log, broker)).close()
    again = drained(Ingester(flow, store.log, broker))
    assert again.total.refused == 0
    again.close()


def test_two_kafka_partitions_are_complete_through_the_slower_one(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """The clock of the flow must not pass what the slower one has yet to tell."""
    ingester = Ingester(flow, store.log, broker, partitions=2)
    send("ordered", orders(0, 10), partition=0)
    send("ordered", orders(100, 104), partition=1)
    drained(ingester)
    last = store.log.last("ordered")
    assert last is not None
    assert at(7.9) < last.through < at(8)
    send("ordered", [None], partition=0, headers=[(THROUGH, at(200).isoformat().encode())])
    drained(ingester)
    last = store.log.last("ordered")
    assert last is not None
    assert at(101.9) < last.through < at(102)
    ingester.close()


def test_a_tick_from_far_in_the_future_moves_nothing(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """Every later fact would count as known then, for good."""
    send("ordered", orders(0, 5))
    send("ordered", [None], headers=[(THROUGH, b"2124-05-01T12:00:00Z")])
    send("ordered", orders(5, 10))
    ingester = drained(Ingester(flow, store.log, broker))
    assert (ingester.total.facts, ingester.total.late, ingester.total.refused) == (10, 0, 1)
    last = store.log.last("ordered")
    assert last is not None
    assert last.through < at(9)
    assert facts_in(store.log, "ordered").column("known_at").to_pylist()[-1] == at(8)
    (letter,) = everything(broker, dead_letter_topic(flow.name))
    assert letter.key == f"{flow.name}.ordered/0/5".encode()
    assert dict(letter.headers)["reason"].startswith(b"'modelflow-through' lies in the future")
    ingester.close()


def test_a_late_fact_counts_as_known_when_it_could_first_be_used(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """Rows built before it came must not change."""
    send("ordered", [*orders(10, 20), *orders(3, 4)])
    ingester = drained(Ingester(flow, store.log, broker))
    assert ingester.total.late == 1
    assert facts_in(store.log, "ordered").column("known_at").to_pylist()[-1] == at(18)
    ingester.close()


def test_the_first_rows_wait_for_every_kind_that_is_declared(flow: Flow, tmp_path: Path) -> None:
    """Topics fill one after the other, and features.sql may speak of the last of them."""
    declared = {**flow.stream.facts, "weather": {"sky": "string"}}
    flow = flow.model_copy(update={"stream": flow.stream.model_copy(update={"facts": declared})})
    (tmp_path / "features.sql").write_text(
        "select requests.order_id as key, requests.request_time, shop, any_value(sky) as sky"
        " from requests left join weather on weather.known_at <= request_time group by all"
    )
    store = FeatureStore(flow, root=tmp_path, home=tmp_path / "home")
    store.log.append("ordered", ordered(("o1", "a", 10, 9)), through=at(60))
    store.log.append("arrived", arrived(("o1", "a", 1, 40)), through=at(60))
    assert store.absorb().facts == 0
    sky = {"event_time": [at(1)], "known_at": [at(1)]}
    instants = {name: pa.array(value, pa.timestamp("us", tz="UTC")) for name, value in sky.items()}
    store.log.append("weather", pa.table(instants | {"sky": ["clear"]}), through=at(60))
    assert store.absorb().examples == 1
    assert store.examples(0, 1).column("sky").to_pylist() == ["clear"]


def test_a_column_the_flow_declares_later_is_null_before(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """Facts outlive the schema they came under."""
    send("ordered", orders(0, 5))
    send("arrived", labels(0, 5))
    drained(Ingester(flow, store.log, broker)).close()
    store.absorb()
    wider: dict[str, Any] = {kind: dict(columns) for kind, columns in flow.stream.facts.items()}
    wider["ordered"]["colour"] = "string"
    del wider["arrived"]["days"]
    changed = flow.model_copy(update={"stream": flow.stream.model_copy(update={"facts": wider})})
    send("ordered", [record.replace(b"}", b',"colour":"red"}') for record in orders(5, 8)])
    send("arrived", labels(5, 8))
    drained(Ingester(changed, store.log, broker)).close()
    store.absorb()
    with store.reading() as connection:
        colours = connection.execute("select colour from facts.ordered order by known_at").fetchall()
        days = connection.execute("select days from facts.arrived order by known_at").fetchall()
    assert colours == [(None,)] * 5 + [("red",)] * 3
    assert days == [(number * 7 % 11,) for number in range(5)] + [(None,)] * 3


def test_one_process_ingests_a_kind_of_fact_at_a_time(broker: Broker, flow: Flow, store: FeatureStore) -> None:
    """Two would go on from the same offsets and take every fact in twice."""
    first = Ingester(flow, store.log, broker)
    with pytest.raises(StreamError, match="another process"):
        Ingester(flow, store.log, broker)
    first.close()
    Ingester(flow, store.log, broker).close()


def test_a_topic_made_anew_begins_at_its_first_record(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """The embedded broker forgets everything with its process; its successor's records are new facts."""
    send("ordered", orders(0, 5))
    drained(Ingester(flow, store.log, broker)).close()
    last = store.log.last("ordered")
    assert last is not None
    source = source_of(last)
    assert source is not None
    store.log.append("ordered", ordered(), through=last.through, source=source | {"topic_id": "another"})
    send("ordered", orders(5, 7))
    again = drained(Ingester(flow, store.log, broker))
    assert again.total.facts == 7
    again.close()


@pytest.mark.parametrize(("holds", "skip_lost"), [(100, False), (10, False), (10, True)])
def test_a_topic_made_anew_while_it_is_read_is_not_gone_on_with(  # noqa: PLR0917 - fixtures
    broker: Broker, flow: Flow, store: FeatureStore, send: Send, holds: int, skip_lost: bool
) -> None:
    """Once it holds more than was read of the old one, its offsets look as if it were the same."""
    topic = f"{flow.name}.ordered"
    send("ordered", orders(0, 50))
    running = drained(Ingester(flow, store.log, broker, skip_lost=skip_lost))
    remade(broker, topic)
    send("ordered", orders(50, 50 + holds))
    with pytest.raises(StreamError, match="made anew; start the ingester again"):
        drained(running)
    assert running.total.facts == 50
    running.close()
    again = drained(Ingester(flow, store.log, broker))
    assert again.total.facts == holds
    again.close()
    names = facts_in(store.log, "ordered").column("order_id").to_pylist()
    assert names == [f"o{number:06d}" for number in range(50 + holds)], "each once"


def test_what_comes_before_the_broker_tells_of_its_topic_is_not_committed(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """It may be of a topic made anew, of which not the whole broker knows yet."""
    ingester = drained(Ingester(flow, store.log, broker))
    send("ordered", orders(0, 5))
    with broker.ids([f"{flow.name}.ordered", f"{flow.name}.nothing"]) as ask:
        ingester._ids = ask
        with pytest.raises(BrokerDownError, match=r"expected the id of topic '\w+.nothing', found error 3"):
            drained(ingester)
    assert ingester.total.facts == 0
    ingester.close()


@pytest.mark.slow
def test_records_the_broker_deleted_unread_are_told_and_not_passed_over(
    broker: Broker, flow: Flow, store: FeatureStore, send: Send
) -> None:
    """Retention goes by the records' timestamps; replayed facts are years old."""
    topic = f"{flow.name}.ordered"
    send("ordered", orders(0, 5))
    if not deleted_before(broker, topic, 3):
        pytest.skip("this broker cannot delete records")
    begun = drained(Ingester(flow, store.log, broker))
    assert begun.total.facts == 2  # what was gone before the flow began was never its own
    begun.close()
    send("ordered", orders(5, 20))
    assert deleted_before(broker, topic, 12)
    behind = Ingester(flow, store.log, broker)
    with pytest.raises(StreamError, match="records 5 to 11 were deleted by the broker"):
        drained(behind)
    behind.close()
    on = drained(Ingester(flow, store.log, broker, skip_lost=True))
    assert on.total.facts == 8
    on.close()
    names = facts_in(store.log, "ordered").column("order_id").to_pylist()
    assert names == [f"o{number:06d}" for number in (3, 4, *range(12, 20))]


def test_a_broker_that_is_not_there_is_named(
    flow: Flow, store: FeatureStore, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of silence would be the client's own answer."""
    monkeypatch.setattr("ml_core.streaming.broker._BOOTSTRAP_MS", 300)
    with pytest.raises(BrokerDownError, match=f"127.0.0.1:{free_port}"):
        Ingester(flow, store.log, Broker(f"127.0.0.1:{free_port}"))


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_an_ingester_killed_at_any_moment_loses_and_repeats_nothing(  # noqa: PLR0917 - fixtures
    broker: Broker, flow: Flow, store: FeatureStore, send: Send, tmp_path: Path, kills: int
) -> None:
    """Promise 3: a lost fact is a feature nobody has, a repeated one counts twice."""
    project = ProjectOnDisk.write(tmp_path, flow, broker)

    def begun() -> bool:
        return any((store.log.directory / "ordered").glob("*.parquet"))

    rows = 4_000
    for rounds in range(kills):
        first, stop = rounds * rows // kills, (rounds + 1) * rows // kills
        send("ordered", orders(first, stop))
        send("arrived", [b"{", *labels(first, stop)])
        project.kill_at_random(("ingest", flow.name), times=1, seed=rounds, begun=begun, longest_s=0.8)
    project.run("ingest", flow.name, "--until-idle")
    names = [f"o{number:06d}" for number in range(rows)]
    for kind in ("ordered", "arrived"):
        facts = facts_in(store.log, kind)
        assert facts.column("order_id").to_pylist() == names
        assert facts.column("log_offset").to_pylist() == list(range(rows))
    letters = {letter.key for letter in everything(broker, dead_letter_topic(flow.name))}
    assert len(letters) == kills
    assert (store.log.directory / "ordered" / ARCHIVE).exists()
