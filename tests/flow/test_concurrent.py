"""Many promotions of one flow at once, from several processes: a single line of champions, and no entry lost."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from ml_core.errors import HeadMovedError
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from tests.flow.conftest import ACCEPTED, aliases, stages


def promote_each(uri: str, ledger_uri: str, versions: list[int]) -> list[int]:
    """Promote versions one after the other, each until it wins against whatever the champion is then."""
    registry, entries = Registry(uri, ledger_uri=ledger_uri), []
    for version in versions:
        while True:
            champion = registry.ledger.last("shop").champion
            try:
                entry = registry.promote("shop", version, verdict=ACCEPTED, expected_champion=champion)
            except HeadMovedError:
                continue
            entries.append(entry.number)
            break
    return entries


def hold(registry: Registry, made: list[int], count: int) -> None:
    """Assert that `count` promotions happened one after another, each in place of the one before."""
    entries = registry.ledger.entries("shop")
    assert sorted(made) == [entry.number for entry in entries] == list(range(1, count + 1))
    assert {entry.step for entry in entries} == {"done"}
    assert sorted(int(entry.champion or 0) for entry in entries) == list(range(1, count + 1))
    assert [entry.before for entry in entries] == [None, *(entry.champion for entry in entries[:-1])]
    champion = entries[-1].champion
    standing = [version for version, stage in stages(registry).items() if stage == "Production"]
    assert standing == [champion]
    assert aliases(registry) == {"champion": champion, "previous": entries[-1].before}
    assert registry.reconcile("shop") == []


def test_promotions_at_the_same_time_form_one_line(registry: Registry, publish: Callable[..., ModelVersion]) -> None:
    for number in range(1, 7):
        publish(registry, number)
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(promote_each, registry.tracking_uri, registry._ledger_uri, [first, first + 3])
            for first in (1, 2, 3)
        ]
        made = [number for each in asked for number in each.result()]
    hold(registry, made, 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_promotions_from_five_processes_form_one_line(
    registry: Registry, publish: Callable[..., ModelVersion]
) -> None:
    for number in range(1, 51):
        publish(registry, number)
    with ProcessPoolExecutor(5, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [
            pool.submit(promote_each, registry.tracking_uri, registry._ledger_uri, list(range(first, 51, 5)))
            for first in range(1, 6)
        ]
        made = [number for each in asked for number in each.result()]
    hold(registry, made, 50)
