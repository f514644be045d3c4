"""The registry as a flow: stages, aliases, races and interruptions, on MLflow's own stores."""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ml_core.clock import ManualClock
from ml_core.errors import HeadMovedError, PackageError, PromotionError, RegistryDownError, VersionNotFoundError
from ml_core.flow.package import MANIFEST, PREDICTS, verify_package
from ml_core.flow.read import ModelAddress, open_registry
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from orchestration.processes import free_port
from tests.flow.conftest import ACCEPTED, FIRST_IN_A_FILE, aliases, stages

Publish = Callable[..., ModelVersion]
REFUSED = Verdict(accepted=False, policy="non-inferiority", rows=9, reasons=("worse",), figures={})


def test_a_flow_lives_through_publish_promote_and_refuse(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    """One story rather than five, because a server takes seconds to start."""
    assert registry.head("shop") is None
    first = publish(registry, 1)
    assert (first.version, first.stage, first.watermark, first.parent) == (1, "None", 1, None)
    assert registry.head("shop") is None

    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    second = publish(registry, 2, parent=1)
    registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=1)
    assert stages(registry) == {1: "Archived", 2: "Production"}
    assert aliases(registry) == {"champion": 2, "previous": 1}
    head = registry.head("shop")
    assert head is not None
    assert (head.version, head.verdict, head.dagster_run_id) == (2, ACCEPTED, "a-run")

    third = publish(registry, 3, parent=2)
    registry.refuse("shop", 3, verdict=REFUSED)
    assert stages(registry)[3] == "Archived"
    assert registry.version("shop", 3).verdict == REFUSED
    with pytest.raises(PromotionError, match="worse"):
        registry.promote("shop", 3, verdict=REFUSED, expected_champion=2)

    fourth = publish(registry, 4, parent=1)
    with pytest.raises(HeadMovedError, match="judged against champion 1, but the champion is 2"):
        registry.promote("shop", 4, verdict=ACCEPTED, expected_champion=1)
    assert stages(registry)[2] == "Production"
    assert (second.version, third.version, fourth.version) == (2, 3, 4)

    assert (registry.download(head, tmp_path / "full") / "state/state.npz").is_file()
    with pytest.raises(VersionNotFoundError, match="no version 99"):
        registry.version("shop", 99)


def test_followers_find_and_prove_what_was_published(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    publish(registry, 1)
    reader = open_registry(registry.tracking_uri)
    with pytest.raises(VersionNotFoundError):
        reader.resolve(ModelAddress.parse("models:/shop/Production"))
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    for uri in ("models:/shop/Production", "models:/shop@champion", "models:/shop/1"):
        ref = reader.resolve(ModelAddress.parse(uri))
        assert ref.version == 1
    directory = reader.download(ref, tmp_path / "downloaded")
    assert {path.name for path in directory.iterdir()} == {MANIFEST, *PREDICTS}
    package = verify_package(directory, expect_digest=ref.manifest_sha256, whole=False)
    assert set(package.signature) == {"shop", "days"}
    reader.close()


def test_while_two_versions_stand_in_production_followers_keep_theirs(registry: Registry, publish: Publish) -> None:
    """A person who moves a stage in the MLflow page without archiving leaves two for a while."""
    for watermark in (1, 2):
        publish(registry, watermark)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    reader = open_registry(registry.tracking_uri)
    address = ModelAddress.parse("models:/shop/Production")
    client.transition_model_version_stage("shop", "1", "Production")
    assert reader.resolve(address, serving=None).version == 1
    client.transition_model_version_stage("shop", "2", "Production")
    assert reader.resolve(address, serving=1).version == 1
    client.transition_model_version_stage("shop", "1", "Archived")
    assert reader.resolve(address, serving=1).version == 2
    reader.close()


def test_between_the_stage_and_the_alias_of_a_promotion_a_look_stays_one_request(
    registry: Registry, publish: Publish
) -> None:
    """Were hundreds to ask at length in that moment, the server would be too busy to end it."""
    for watermark in (1, 2):
        publish(registry, watermark)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    reader = open_registry(registry.tracking_uri)
    address = ModelAddress.parse("models:/shop/Production")
    client.transition_model_version_stage("shop", "2", "Production", archive_existing_versions=True)
    assert reader.resolve(address, serving=None).version == 2
    asked_by_many = registry.tracking_uri.startswith("http")
    assert reader.resolve(address, serving=1).version == (1 if asked_by_many else 2)
    assert reader.resolve(address, serving=1).version == 2, "a person's move is found by the second look"
    client.set_registered_model_alias("shop", "champion", "2")
    assert reader.resolve(address, serving=1).version == 2
    reader.close()


@FIRST_IN_A_FILE
def test_a_promotion_asked_for_twice_is_made_once(registry: Registry, publish: Publish) -> None:
    """Whoever repeats a call after a lost answer must not write a second entry."""
    publish(registry, 1)
    once = registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    again = registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    assert (once.number, again.number) == (1, 1)


@FIRST_IN_A_FILE
def test_a_forced_promotion_needs_a_reason_and_is_recorded(registry: Registry, publish: Publish) -> None:
    publish(registry, 1)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    publish(registry, 2, parent=1)
    registry.refuse("shop", 2, verdict=REFUSED)
    with pytest.raises(PromotionError, match="needs a reason"):
        registry.force_promote("shop", 2, reason=" ")
    entry = registry.force_promote("shop", 2, reason="the champion cannot price skis", who="ada")
    assert (entry.kind, entry.forced, entry.who, entry.why) == (
        "promote",
        True,
        "ada",
        "the champion cannot price skis",
    )
    assert stages(registry) == {1: "Archived", 2: "Production"}
    assert registry.version("shop", 2).verdict == REFUSED


@FIRST_IN_A_FILE
def test_rolling_back_walks_the_champions_back_and_forward_again(registry: Registry, publish: Publish) -> None:
    """Rolling back twice goes two champions back, not back and forth."""
    for number in (1, 2, 3):
        publish(registry, number, parent=number - 1 or None)
        registry.promote("shop", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    entry = registry.rollback("shop", why="late planes")
    assert (entry.before, entry.champion, entry.previous) == (3, 2, 1)
    assert aliases(registry) == {"champion": 2, "previous": 1}
    registry.rollback("shop", why="still")
    assert stages(registry) == {1: "Production", 2: "Archived", 3: "Archived"}
    assert aliases(registry) == {"champion": 1}
    with pytest.raises(PromotionError, match="nothing to roll back to"):
        registry.rollback("shop", why="again")
    registry.rollback("shop", to=3, why="it was the planes")
    assert aliases(registry) == {"champion": 3, "previous": 2}
    assert [entry.kind for entry in registry.ledger.entries("shop")] == ["promote"] * 3 + ["rollback"] * 3


@FIRST_IN_A_FILE
def test_rolling_back_to_what_never_served_is_refused(registry: Registry, publish: Publish) -> None:
    publish(registry, 1)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    publish(registry, 2, parent=1)
    registry.refuse("shop", 2, verdict=REFUSED)
    with pytest.raises(PromotionError, match="version 2 never served"):
        registry.rollback("shop", to=2, why="try it")
    with pytest.raises(VersionNotFoundError, match="no version 9"):
        registry.rollback("shop", to=9, why="try it")
    with pytest.raises(PromotionError, match="cannot resume at 0"):
        registry.rollback("shop", to=1, why="try it", resume_at=0)


def test_a_rollback_may_skip_examples_and_the_next_one_forgets_it(registry: Registry, publish: Publish) -> None:
    for number in (1, 2):
        publish(registry, number, parent=number - 1 or None)
        registry.promote("shop", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    registry.rollback("shop", why="poisoned labels", resume_at=40)
    head = registry.head("shop")
    assert head is not None
    assert (head.version, head.watermark, head.next_example) == (1, 1, 40)
    registry.rollback("shop", to=2, why="they were fine")
    registry.rollback("shop", to=1, why="or not")
    assert registry.version("shop", 1).next_example == 1


def test_nothing_broken_is_promoted_whoever_wants_it(registry: Registry, publish: Publish) -> None:
    """The verdict, and a person's reason, are about a package; it is proved again before it is moved."""
    publish(registry, 1)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    version = publish(registry, 2, parent=1)
    break_package(registry, version)
    with pytest.raises(PackageError, match=r"model\.onnx"):
        registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=1)
    with pytest.raises(PackageError, match=r"model\.onnx"):
        registry.force_promote("shop", 2, reason="now")
    assert stages(registry) == {1: "Production", 2: "None"}


def test_the_ledger_knows_what_served_when(publish: Publish, sqlite: str) -> None:
    clock = ManualClock(datetime(2024, 5, 1, tzinfo=UTC))
    registry = Registry(sqlite, clock=clock)
    for number in (1, 2):
        publish(registry, number, parent=number - 1 or None)
        clock.advance(timedelta(hours=1))
        registry.promote("shop", number, verdict=ACCEPTED, expected_champion=number - 1 or None)
    served = [registry.ledger.at("shop", datetime(2024, 5, 1, hour, 30, tzinfo=UTC)).champion for hour in (0, 1, 2)]
    assert served == [None, 1, 2]


def test_a_version_signed_with_another_key_or_not_at_all_is_not_promoted(publish: Publish, sqlite: str) -> None:
    signing, plain = Registry(sqlite, signing_key=b"a key of the team"), Registry(sqlite)
    publish(plain, 1)
    with pytest.raises(PackageError, match="signed with our key, found none"):
        signing.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    publish(signing, 2)
    with pytest.raises(PackageError, match="made with another key"):
        Registry(sqlite, signing_key=b"somebody else's key").promote(
            "shop", 2, verdict=ACCEPTED, expected_champion=None
        )
    signing.promote("shop", 2, verdict=ACCEPTED, expected_champion=None)
    plain.promote("shop", 1, verdict=ACCEPTED, expected_champion=2)


def test_publishing_the_next_version_and_listing_do_not_touch_what_others_registered(
    registry: Registry, publish: Publish
) -> None:
    """A person may register anything under a flow's name; it is theirs, and no version of the flow."""
    publish(registry, 1)
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    first = registry.version("shop", 1)
    client.create_model_version("shop", first.source, first.mlflow_run_id, await_creation_for=0)
    assert publish(registry, 3).version == 3
    assert [version.version for version in registry.versions("shop")] == [1, 3]
    assert [version.version for version in registry.pending("shop")] == [1, 3]


def break_package(registry: Registry, version: ModelVersion) -> None:
    """Overwrite a version's graph where its artifacts lie."""
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, "model.onnx")
        graph.write_bytes(b"no graph")
        client.log_artifact(version.mlflow_run_id, str(graph), "model")


def test_a_registry_that_is_gone_is_reported_in_time() -> None:
    reader = open_registry(f"http://127.0.0.1:{free_port()}", timeout_s=1)
    with pytest.raises(RegistryDownError, match=r"within 1 s"):
        reader.resolve(ModelAddress.parse("models:/shop/Production"))


def test_a_user_without_a_name_is_called_by_the_number(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user is often a number that no file knows."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr("ml_core.flow.versions.getuser", nobody)
    assert Registry(sqlite).who.startswith("user ")
