"""Read docker/compose.yaml and the Dockerfiles into what a service is when it runs.

Only what these files use is understood; anything else in them is an error here, so that a key that this check would
pass over is never written.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"

_KNOWN = {
    *("build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "logging", "name"),
    *("networks", "ports", "profiles", "read_only", "restart", "secrets", "security_opt", "stop_grace_period", "tmpfs"),
    "volumes",
}
_CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


@dataclass(frozen=True)
class Image:
    """What a Dockerfile of ours says of a running container.

    Attributes
    ----------
    copies : mapping of str to Path
        What of the project is where in it.
    """

    user: str
    workdir: str
    environment: Mapping[str, str]
    command: list[str]
    entrypoint: list[str]
    copies: Mapping[str, Path]


@dataclass(frozen=True)
class Service:
    """One service of the compose file.

    Attributes
    ----------
    mounts : mapping of str to Path or str
        What is mounted where: a file or folder of the project, a secret's file, or the name of a volume.
    address : str or None
        Where one is written down.
    """

    name: str
    image: str
    built: Image | None
    command: list[str]
    environment: Mapping[str, str]
    mounts: Mapping[str, Path | str]
    depends_on: Mapping[str, str]
    health: list[str] | None
    restart: str
    address: str | None
    confined: bool
    read_only: bool
    once: bool = field(default=False)
    on_demand: bool = field(default=False)


def read_services(secrets: Path) -> tuple[dict[str, Service], str]:
    """Return the services of the compose file, and their network's subnet.

    Parameters
    ----------
    secrets : Path
        Stands in for docker/secrets.
    """
    settings = _settings(DOCKER / ".env")
    written = yaml.safe_load(_filled((DOCKER / "compose.yaml").read_text(encoding="utf-8"), settings))
    files = {name: secrets / Path(entry["file"]).name for name, entry in written["secrets"].items()}
    awaited = {
        name
        for service in written["services"].values()
        for name, how in _depends_on(service).items()
        if how == "service_completed_successfully"
    }
    services = {name: _service(name, entry, files, once=name in awaited) for name, entry in written["services"].items()}
    return services, written["networks"]["platform"]["ipam"]["config"][0]["subnet"]


def _service(name: str, entry: Mapping[str, Any], files: Mapping[str, Path], *, once: bool) -> Service:
    unknown = entry.keys() - _KNOWN
    if unknown:
        raise SystemExit(f"compose.yaml: {name}: this check does not know {sorted(unknown)}; teach it, or leave it out")
    dockerfile = DOCKER / f"{entry['image'].removeprefix('modelflow-')}.Dockerfile"
    built = _image(dockerfile) if entry["image"].startswith("modelflow-") else None
    command = [str(part) for part in entry.get("command", [])]
    if built is not None:
        command = [*built.entrypoint, *(command or built.command)]
    environment = {key: str(value) for key, value in entry.get("environment", {}).items()}
    mounts: dict[str, Path | str] = dict(built.copies) if built else {}
    for secret in entry.get("secrets", []):
        source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
        mounts[target if target.startswith("/") else f"/run/secrets/{target}"] = files[source]
    for volume in entry.get("volumes", []):
        source, target, *_ = volume.split(":")
        mounts[target] = (DOCKER / source).resolve() if source.startswith(".") else source
    networks = entry["networks"]
    return Service(
        name=name,
        image=entry["image"],
        built=built,
        command=command,
        environment={**(built.environment if built else {}), **environment},
        mounts=mounts,
        depends_on=_depends_on(entry),
        health=entry.get("healthcheck", {}).get("test", [None])[1:] or None,
        restart=entry["restart"],
        address=networks["platform"]["ipv4_address"] if isinstance(networks, dict) else None,
        confined=entry.get("cap_drop") == ["ALL"],
        read_only=entry.get("read_only", False),
        once=once,
        on_demand="profiles" in entry,
    )


def _depends_on(entry: Mapping[str, Any]) -> dict[str, str]:
    wanted = entry.get("depends_on", {})
    if isinstance(wanted, list):
        return dict.fromkeys(wanted, "service_started")
    conditions = {name: each["condition"] for name, each in wanted.items()}
    if not set(conditions.values()) <= _CONDITIONS:
        raise SystemExit(f"compose.yaml: expected conditions among {sorted(_CONDITIONS)}, found {conditions}")
    return conditions


def _image(dockerfile: Path) -> Image:
    """Read the last stage of a Dockerfile, and what any stage copies out of the project."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE))
    values: dict[str, list[str]] = {"COPY": [], "ENV": [], "USER": [], "WORKDIR": [], "ENTRYPOINT": [], "CMD": []}
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            values = {"COPY": values["COPY"], **{name: [] for name in values if name != "COPY"}}
        elif instruction in values:
            values[instruction].append(rest.strip())
    copies: dict[str, Path] = {}
    for line in values["COPY"]:
        *sources, target = line.split()
        if not sources[0].startswith("--from"):
            for source in sources:
                into = len(sources) > 1 or target.endswith("/")
                copies[f"{target.rstrip('/')}/{Path(source).name}" if into else target] = ROOT / source
    environment = dict(part.split("=", 1) for line in values["ENV"] for part in shlex.split(line))
    return Image(
        user=values["USER"][-1].split(":")[0],
        workdir=values["WORKDIR"][-1],
        environment={key: value.replace(":$PATH", "") for key, value in environment.items()},
        command=json.loads(values["CMD"][-1]) if values["CMD"] else [],
        entrypoint=json.loads(values["ENTRYPOINT"][-1]) if values["ENTRYPOINT"] else [],
        copies={target: source for target, source in copies.items() if not target.startswith("/tmp/")},
    )


def _settings(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _filled(text: str, settings: Mapping[str, str]) -> str:
    filled = re.sub(r"(?<!\$)\$\{(\w+)\}", lambda found: settings[found[1]], text)
    return filled.replace("$$", "$")
