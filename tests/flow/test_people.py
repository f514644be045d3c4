"""What people move in the MLflow pages is obeyed, completed and written into the ledger as theirs."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from ml_core.flow.ledger import Entry
from ml_core.flow.moves import SOMEONE, people_move
from ml_core.flow.registry import Registry
from ml_core.flow.shelf import Standing
from ml_core.flow.version import ModelVersion
from tests.flow.conftest import ACCEPTED, FIRST_IN_A_FILE, aliases, stages
from tests.flow.test_registry import break_package

Publish = Callable[..., ModelVersion]


class Person:
    """Somebody in front of the MLflow pages."""

    def __init__(self, registry: Registry) -> None:
        self._client = MlflowClient(registry.tracking_uri, registry.tracking_uri)

    def move(self, version: int, stage: str, *, archive: bool = False) -> None:
        """Choose a stage, with or without the box that archives the version standing there."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client.transition_model_version_stage("shop", str(version), stage, archive_existing_versions=archive)

    def alias(self, name: str, version: int | None) -> None:
        """Set an alias, or take it away."""
        if version is None:
            self._client.delete_registered_model_alias("shop", name)
        else:
            self._client.set_registered_model_alias("shop", name, str(version))

    def delete(self, version: int) -> None:
        """Delete a version."""
        self._client.delete_model_version("shop", str(version))


@pytest.fixture
def flow(registry: Registry, publish: Publish) -> Registry:
    """Return a flow whose second version is champion and whose third waits."""
    for number in (1, 2):
        publish(registry, number, parent=number - 1 or None)
        registry.promote("shop", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    publish(registry, 3, parent=2)
    return registry


@pytest.mark.parametrize("archive", [True, False])
def test_a_move_to_production_is_completed_and_is_theirs(flow: Registry, archive: bool) -> None:
    """With the box unticked two versions stand in Production, also when the wanted one is the older one."""
    Person(flow).move(1, "Production", archive=archive)
    assert len(flow.reconcile("shop")) == 1
    assert stages(flow) == {1: "Production", 2: "Archived", 3: "None"}
    assert aliases(flow) == {"champion": 1, "previous": 2}
    entry = flow.ledger.last("shop")
    assert (entry.kind, entry.version, entry.before, entry.who) == ("promote", 1, 2, SOMEONE)
    assert flow.reconcile("shop") == []


@FIRST_IN_A_FILE
def test_an_alias_set_by_a_person_moves_the_stages(flow: Registry) -> None:
    Person(flow).alias("champion", 3)
    flow.reconcile("shop")
    assert stages(flow) == {1: "Archived", 2: "Archived", 3: "Production"}
    assert aliases(flow) == {"champion": 3, "previous": 2}
    assert flow.ledger.last("shop").why == "alias champion was set"


@FIRST_IN_A_FILE
def test_a_challenger_named_by_a_person_stands_in_staging(flow: Registry) -> None:
    person = Person(flow)
    person.move(3, "Staging")
    flow.reconcile("shop")
    assert aliases(flow) == {"champion": 2, "previous": 1, "challenger": 3}
    assert flow.ledger.last("shop").kind == "challenge"
    person.alias("challenger", 1)
    flow.reconcile("shop")
    assert stages(flow) == {1: "Staging", 2: "Production", 3: "Archived"}
    person.move(1, "None")
    flow.reconcile("shop")
    assert aliases(flow) == {"champion": 2, "previous": 1}


@FIRST_IN_A_FILE
def test_a_champion_taken_out_of_production_is_retired_and_may_come_back(flow: Registry) -> None:
    person = Person(flow)
    person.move(2, "Archived")
    flow.reconcile("shop")
    assert flow.head("shop") is None
    assert aliases(flow) == {"previous": 2}
    assert flow.ledger.last("shop").kind == "retire"
    flow.rollback("shop", why="it was a slip")
    assert aliases(flow) == {"champion": 2, "previous": 1}


@FIRST_IN_A_FILE
def test_an_alias_taken_away_follows_the_stages_again(flow: Registry) -> None:
    person = Person(flow)
    person.alias("champion", None)
    person.alias("previous", 3)
    flow.reconcile("shop")
    assert aliases(flow) == {"champion": 2, "previous": 3}
    person.delete(3)
    flow.reconcile("shop")
    assert aliases(flow) == {"champion": 2}
    assert flow.reconcile("shop") == []


@FIRST_IN_A_FILE
def test_a_broken_version_moved_by_a_person_is_moved_back_with_the_reason(flow: Registry) -> None:
    """The move skips the gate, never the verification."""
    break_package(flow, flow.version("shop", 3))
    Person(flow).move(3, "Production", archive=True)
    flow.reconcile("shop")
    assert stages(flow) == {1: "Archived", 2: "Production", 3: "Archived"}
    assert aliases(flow) == {"champion": 2, "previous": 1}
    entry = flow.ledger.last("shop")
    assert (entry.kind, entry.version) == ("restore", 3)
    assert "model.onnx" in entry.why
    assert SOMEONE in entry.why


@FIRST_IN_A_FILE
def test_a_promotion_that_meets_a_persons_move_is_judged_again(flow: Registry) -> None:
    """The gate compared with version 2; a person has made version 1 champion since."""
    Person(flow).move(1, "Production", archive=True)
    with pytest.raises(Exception, match="the champion is 1 now; judge it again"):
        flow.promote("shop", 3, verdict=ACCEPTED, expected_champion=2)
    assert stages(flow) == {1: "Production", 2: "Archived", 3: "None"}
    assert flow.ledger.last("shop").who == SOMEONE


NUMBERS = st.integers(1, 4)
MAYBE = st.none() | NUMBERS


@settings(max_examples=300, deadline=None)
@given(
    ledger=st.tuples(MAYBE, MAYBE, MAYBE),
    where=st.dictionaries(NUMBERS, st.sampled_from(["None", "Staging", "Production", "Archived"])),
    pointed=st.tuples(MAYBE, MAYBE, MAYBE),
    order=st.permutations([1, 2, 3, 4]),
)
def test_after_any_move_whatsoever_the_flow_is_consistent_and_stays_so(
    ledger: tuple[int | None, ...], where: dict[int, str], pointed: tuple[int | None, ...], order: list[int]
) -> None:
    """Whatever people do: at most one champion in Production, under its alias, and then nothing more to do."""
    champion, challenger, previous = (each if each in where else None for each in pointed)
    last = Entry("shop", 7, champion=ledger[0], challenger=ledger[1], previous=ledger[2], step="done")
    for _ in range(3):
        standing = {
            stage: tuple(version for version in order if where.get(version) == stage)
            for stage in ("Production", "Staging")
        }
        seen = Standing(
            standing["Production"], standing["Staging"], champion, challenger, previous, known=frozenset(where)
        )
        move = people_move(last, seen)
        if move is None:
            break
        if move.kind == "promote":
            where = {version: "Archived" if stage == "Production" else stage for version, stage in where.items()}
            where[move.version or 0] = "Production"
        if move.challenger is not None:
            where = {version: "Archived" if stage == "Staging" else stage for version, stage in where.items()}
            where[move.challenger] = "Staging"
        champion, challenger, previous = move.champion, move.challenger, move.previous
        last = replace(move, number=last.number + 1, step="done")
    assert move is None
    assert [version for version, stage in where.items() if stage == "Production"] == (
        [] if champion is None else [champion]
    )
    assert (champion, challenger, previous) == (last.champion, last.challenger, last.previous)
    assert champion is None or champion not in {challenger, previous}
    assert challenger is None or where[challenger] == "Staging"
