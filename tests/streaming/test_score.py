"""Scores out for rows in: at least once on every broker, exactly once where the broker has transactions."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_core.streaming.broker import Broker
from ml_core.streaming.deadletters import dead_letter_topic
from serving import LocalPredictor
from serving.stream import StreamScorer
from tests.serving.conftest import ROW, FolderRegistry, RestRegistry, registry, rest_registry
from tests.streaming.reading import everything

__all__ = ["registry", "rest_registry"]  # fixtures

_NAMES = (f"rows{number}" for number in itertools.count())
MODELFLOW = Path(sys.executable).with_name("modelflow")
BAD = {
    b"{": "not JSON",
    b"[1]": "expected a JSON object, found list",
    json.dumps({**ROW, "delay": "late"}).encode(): "'delay'",
    json.dumps({"carrier": "UA"}).encode(): "missing",
    None: "no value",
}


@pytest.fixture
def names(broker: Broker) -> dict[str, str]:
    """Return topics and a group of this test's own."""
    name = next(_NAMES)
    broker.ensure(name, partitions=2)
    return {"source": name, "target": f"{name}.scores", "group": f"{name}.score"}


@pytest.fixture
def predictor(rest_registry: RestRegistry, registry: FolderRegistry) -> Iterator[LocalPredictor]:
    """Return a predictor that serves version 7."""
    for version in (7, 8):
        registry.add(version)
    registry.promote(7)
    with LocalPredictor("models:/f/Production", tracking_uri=rest_registry.uri, poll_interval_s=0.05) as made:
        yield made


def send(broker: Broker, topic: str, values: list[Any], *, first: int = 0) -> None:
    producer = broker.producer()
    futures = [
        producer.send(
            topic, key=f"k{first + place}".encode(), value=value, headers=[("trace", b"t")], partition=place % 2
        )
        for place, value in enumerate(values)
    ]
    for future in futures:
        future.get(timeout=30)
    producer.close()


def until(scorer: StreamScorer, count: int) -> None:
    """Step until so many records are done."""
    deadline = time.monotonic() + 60
    while scorer.total.scored + scorer.total.refused < count:
        scorer.step()
        assert time.monotonic() < deadline, scorer.total


def rows(count: int) -> list[bytes]:
    return [json.dumps({**ROW, "delay": float(number), "note": "ignored"}).encode() for number in range(count)]


@pytest.mark.slow
def test_a_member_that_joins_a_busy_one_takes_its_share(
    broker: Broker, names: dict[str, str], predictor: LocalPredictor
) -> None:
    """The group forms anew in the middle of a batch: nobody fails, nothing is lost, and both go on."""
    ended, scorers, failures = threading.Event(), [StreamScorer(predictor, broker, **names)], []

    def member(scorer: StreamScorer) -> None:
        try:
            while not ended.is_set():
                scorer.step()
        except Exception as error:  # noqa: BLE001 - a thread's error is told by the test
            failures.append(error)

    threads = [threading.Thread(target=member, args=(scorers[0],))]
    threads[0].start()
    sent = 0
    until_s = time.monotonic() + 25
    while time.monotonic() < until_s and not (len(scorers) == 2 and scorers[1].total.scored > 200):
        send(broker, names["source"], rows(40), first=sent)
        sent += 40
        if len(scorers) == 1 and scorers[0].total.scored > 200:
            scorers.append(StreamScorer(predictor, broker, **names))
            threads.append(threading.Thread(target=member, args=(scorers[1],)))
            threads[1].start()
    deadline = time.monotonic() + 30
    while sum(scorer.total.scored for scorer in scorers) < sent and time.monotonic() < deadline:
        time.sleep(0.1)
    ended.set()
    for thread, scorer in zip(threads, scorers, strict=True):
        thread.join(30)
        scorer.close()
    assert failures == []
    assert scorers[1].total.scored > 200
    places = [(answer["partition"], answer["offset"]) for answer in map(json.loads, values(broker, names["target"]))]
    assert len(set(places)) == sent


def values(broker: Broker, topic: str) -> list[bytes]:
    return [record.value for record in everything(broker, topic)]


def test_every_row_is_answered_with_its_place_and_the_version(
    broker: Broker,
    names: dict[str, str],
    predictor: LocalPredictor,
    registry: FolderRegistry,
) -> None:
    scorer = StreamScorer(predictor, broker, **names)
    send(broker, names["source"], rows(300))
    until(scorer, 300)
    registry.promote(8)
    deadline = time.monotonic() + 20
    while predictor.version != 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    send(broker, names["source"], rows(10), first=300)
    until(scorer, 310)
    scorer.close()
    asked = {(record.partition, record.offset): record for record in everything(broker, names["source"])}
    # at least once: a group that forms anew at its start scores its first batch again
    found = {(told["partition"], told["offset"]): record
             for record in everything(broker, names["target"]) for told in [json.loads(record.value)]}  # fmt: skip
    assert len(found) == 310
    for record in found.values():
        answer = json.loads(record.value)
        source = asked.pop((answer["partition"], answer["offset"]))
        number = int(source.key[1:])
        assert (record.key, dict(record.headers)) == (source.key, {"trace": b"t"})
        assert (answer["key"], answer["version"]) == (f"k{number}", 7 if number < 300 else 8)
        assert answer["score"] == pytest.approx(0.07 if number < 300 else 0.08, abs=2e-4)
        if number >= 300:
            assert answer["score"] == pytest.approx(predictor.predict(json.loads(source.value)).score, abs=1e-6)
    assert not asked


def test_what_cannot_be_scored_becomes_a_dead_letter_and_stops_nothing(
    broker: Broker, names: dict[str, str], predictor: LocalPredictor
) -> None:
    scorer = StreamScorer(predictor, broker, **names)
    values: list[Any] = rows(20)
    for place, bad in enumerate(BAD):
        values.insert(3 * place, bad)
    send(broker, names["source"], values)
    until(scorer, 20 + len(BAD))
    scorer.close()
    assert (scorer.total.scored, scorer.total.refused) == (20, len(BAD))
    letters = [
        dict(record.headers)
        for record in everything(broker, dead_letter_topic("f"))
        if dict(record.headers)["topic"] == names["source"].encode()
    ]
    reasons = sorted(letter["reason"].decode() for letter in letters)
    assert len(reasons) == len(BAD)
    for part in BAD.values():
        assert any(part in reason for reason in reasons), (part, reasons)


def test_another_member_goes_on_where_one_left_off(
    broker: Broker, names: dict[str, str], predictor: LocalPredictor
) -> None:
    send(broker, names["source"], rows(40))
    first = StreamScorer(predictor, broker, **names)
    until(first, 40)
    first.close()
    send(broker, names["source"], rows(40), first=40)
    second = StreamScorer(predictor, broker, **names)
    until(second, 40)
    second.close()
    assert len(everything(broker, names["target"])) == 80


def answered(broker: Broker, topic: str, committed: bool) -> Counter[tuple[int, int]]:
    """Count the answers to each record: those that consumers of committed records see, or all."""
    isolation = {"isolation_level": "read_committed"} if committed else {}
    answers = (json.loads(record.value) for record in everything(broker, topic, **isolation))
    return Counter((answer["partition"], answer["offset"]) for answer in answers)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_thirty_moments_it_loses_nothing_and_with_transactions_repeats_nothing(
    broker: Broker,
    names: dict[str, str],
    predictor: LocalPredictor,
    rest_registry: RestRegistry,
    request: pytest.FixtureRequest,
) -> None:
    """On the embedded broker, which hands out what was aborted, at least once is what is promised."""
    exactly = "apache" in request.node.name
    count = 60_000
    command = [
        *(MODELFLOW, "score", "f", "--from", names["source"], "--to", names["target"], "--group", names["group"]),
        *("--tracking-uri", rest_registry.uri, *(("--exactly-once",) if exactly else ())),
    ]
    environment = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
    moments = random.Random(7)  # noqa: S311 - moments, not secrets
    send(broker, names["source"], rows(count // 2))
    for kill in range(30):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        send(broker, names["source"], rows(count // 60), first=count // 2 + kill * (count // 60))
        time.sleep(moments.uniform(1.5, 6.0))
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    told = subprocess.run(
        [*command, "--until-idle", "--json"], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert json.loads(told.stdout)["refused"] == 0
    deadline = time.monotonic() + 60  # the broker ends a killed process's transaction in its own time
    while len(found := answered(broker, names["target"], exactly)) < count and time.monotonic() < deadline:
        time.sleep(1)
    assert len(found) == count
    if exactly:
        assert set(found.values()) == {1}
    assert predictor.version == 7
