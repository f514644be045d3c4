"""The registry as a flow: stages, aliases, races and interruptions, on MLflow's own stores."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ml_core.errors import HeadMovedError, PromotionError, RegistryDownError, VersionNotFoundError
from ml_core.flow.package import verify_package
from ml_core.flow.read import ModelAddress, open_registry
from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from orchestration.processes import Supervisor, free_port, start_mlflow, wait_for_mlflow
from tests.flow.conftest import ACCEPTED

Publish = Callable[..., ModelVersion]
REFUSED = Verdict(accepted=False, policy="non-inferiority", rows=9, reasons=("worse",), figures={})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a real MLflow server."""
    home = tmp_path_factory.mktemp("mlflow-server")
    with Supervisor(home) as supervisor:
        port = free_port()
        uri = start_mlflow(supervisor, home, port)
        wait_for_mlflow(supervisor, port)
        yield uri


@pytest.fixture(params=["sqlite", "http"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "sqlite":
        yield Registry(f"sqlite:///{tmp_path}/mlflow.db")
        return
    registry = Registry(request.getfixturevalue("server"))
    yield registry
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    client.delete_registered_model("shop")


def stages(registry: Registry) -> dict[int, str]:
    return {version.version: version.stage for version in registry.versions("shop")}


def aliases(registry: Registry) -> dict[str, int]:
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    return {name: int(version) for name, version in client.get_registered_model("shop").aliases.items()}


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
    assert set(verify_package(directory, expect_digest=ref.manifest_sha256).signature) == {"shop", "days"}
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


@pytest.mark.parametrize(
    "step", ["set_model_version_tag", "transition_model_version_stage", "set_registered_model_alias"]
)
def test_an_interrupted_promotion_is_completed_by_repeating_it(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    publish(registry, 1)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    publish(registry, 2, parent=1)
    real = getattr(registry._client, step)
    for surviving in range(3):
        left = [surviving]

        def interrupted(*arguments: object, left: list[int] = left, **more: object) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(*arguments, **more)

        with monkeypatch.context() as patched:
            patched.setattr(registry._client, step, interrupted)
            try:
                registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=1)
            except KeyboardInterrupt:
                assert sum(stage == "Production" for stage in stages(registry).values()) == 1
    registry.promote("shop", 2, verdict=ACCEPTED, expected_champion=1)
    assert stages(registry) == {1: "Archived", 2: "Production"}
    assert aliases(registry) == {"champion": 2, "previous": 1}


def test_a_registry_that_is_gone_is_reported_in_time() -> None:
    reader = open_registry(f"http://127.0.0.1:{free_port()}", timeout_s=1)
    with pytest.raises(RegistryDownError, match=r"within 1 s"):
        reader.resolve(ModelAddress.parse("models:/shop/Production"))
