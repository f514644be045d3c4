"""The files of the deployment agree with each other and with the code; what runs of them is `make deploy-check`'s."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.deployed.compose import DOCKER, read_services
from serving.telemetry import Telemetry

CONFIG = DOCKER / "config"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def test_every_file_is_well_formed_for_what_reads_it() -> None:
    looked = subprocess.run(
        [sys.executable, "-m", "scripts.deployed", "--lint"],
        cwd=DOCKER.parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert "compose.yaml: well-formed" in looked.stdout


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    runpy.run_path(str(DOCKER / "make_secrets.py"))["main"](folder)
    return folder


def test_every_secret_named_is_written_for_one_user_alone(secrets: Path) -> None:
    for secret in COMPOSE["secrets"].values():
        file = secrets / Path(secret["file"]).name
        assert file.stat().st_mode & 0o377 == 0, f"{file} can be written, or read by others"
        assert file.stat().st_size > 10


def test_secrets_once_written_are_kept(secrets: Path) -> None:
    """A second run must not lock the platform out of its own database."""
    before = {file.name: file.read_bytes() for file in secrets.iterdir()}
    runpy.run_path(str(DOCKER / "make_secrets.py"))["main"](secrets)
    assert {file.name: file.read_bytes() for file in secrets.iterdir()} == before


def test_no_secret_stands_in_the_files(secrets: Path) -> None:
    services, _ = read_services(secrets)
    values = {word for file in secrets.iterdir() for word in re.findall(r"[\w-]{32,}", file.read_text())}
    shown = json.dumps([[service.command, dict(service.environment)] for service in services.values()])
    assert values
    assert not {value for value in values if value in shown}


def test_our_own_containers_have_no_rights_and_nothing_writable_but_what_is_named(secrets: Path) -> None:
    services, _ = read_services(secrets)
    ours = {name: service for name, service in services.items() if service.built is not None}
    assert len(ours) >= 8
    for name, service in ours.items():
        assert service.confined, name
        assert service.read_only, name
        assert service.built is not None
        assert service.built.user == "10001", name
    for name, service in COMPOSE["services"].items():
        assert service["deploy"]["resources"]["limits"]["memory"], name


def told_by_a_sidecar() -> set[str]:
    """Return the names of all metrics in the source, as Prometheus stores them."""
    source = Path(sys.modules[Telemetry.__module__].__file__ or "").read_text(encoding="utf-8")
    names = set(re.findall(r'"(modelflow_[a-z_]+)"', source))
    return names | {f"{name}{end}" for name in names for end in ("_total", "_bucket", "_count", "_sum")}


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana/dashboards/modelflow.json"])
def test_what_is_watched_is_what_a_sidecar_tells(file: str) -> None:
    """A panel over a metric that was renamed stays empty, and nobody notices."""
    asked = set(re.findall(r"\bmodelflow_[a-z_]+", (CONFIG / file).read_text(encoding="utf-8")))
    assert asked
    assert asked <= told_by_a_sidecar()


def test_grafana_finds_its_dashboard_and_its_source() -> None:
    source = yaml.safe_load((CONFIG / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    provider = yaml.safe_load((CONFIG / "grafana/provisioning/dashboards/modelflow.yaml").read_text())
    dashboard = json.loads((CONFIG / "grafana/dashboards/modelflow.json").read_text())
    uid = source["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {uid}
    mounted = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert mounted["./config/grafana/dashboards"] == provider["providers"][0]["options"]["path"]


def test_prometheus_asks_services_that_are_there() -> None:
    asked = yaml.safe_load((CONFIG / "prometheus.yaml").read_text())
    targets = {
        target for job in asked["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    }
    assert {target.split(":")[0] for target in targets} <= set(COMPOSE["services"])


def test_a_key_this_check_would_pass_over_is_refused(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import scripts.deployed.compose as reading

    for file in (*DOCKER.glob("*.Dockerfile"), DOCKER / ".env", DOCKER / "compose.yaml"):
        shutil.copy(file, tmp_path)
    changed = COMPOSE | {"services": {"balancer": COMPOSE["services"]["balancer"] | {"privileged": True}}}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    monkeypatch.setattr(reading, "DOCKER", tmp_path)
    with pytest.raises(SystemExit, match="privileged"):
        read_services(secrets)
