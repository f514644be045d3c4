"""`make deploy-check`: docker/ linted, then run as processes on a network of its own, and every part killed under load.

What runs is what docker/compose.yaml says: its commands, environment, secrets, volumes, users, health checks and start
order, each image's packages from its own lock. The main job goes through it: facts over Kafka, first training by
Dagster's daemon, gate, promotion, two sidecars behind one address. Then each part is killed in turn while callers ask
and facts keep coming. In the end no request may have failed, a version learned after the last kill must serve, and the
examples must be, row for row, those of a store that took the same facts in undisturbed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scripts.deployed.compose import DOCKER, ROOT

PLACE = ROOT / "var" / "deploy-check"
_LOCKS = ("platform", "dagster", "mlflow", "sidecar")
_BIN = Path(sys.executable).parent


def main() -> None:
    """Prepare with the network at hand, then run the deployment in namespaces that have none."""
    options = argparse.ArgumentParser()
    options.add_argument("--inside", action="store_true", help="it is in its namespaces already")
    options.add_argument("--lint", action="store_true", help="look at the files, and run nothing")
    chosen = options.parse_args()
    if chosen.inside:
        from scripts.deployed.story import tell

        tell(PLACE, environments())
        return
    if chosen.lint:
        lint()
        return
    if os.getuid() != 0 or not shutil.which("unshare"):
        sys.exit("deploy-check: expected root, and unshare of util-linux: the parts get namespaces of their own")
    from scripts.deployed.standins import install

    began = time.monotonic()
    install()
    lint()  # with the programs that came just now
    environments()
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([sys.executable, DOCKER / "make_secrets.py", PLACE / "secrets"], check=True, timeout=30)
    print(f"==> prepared after {time.monotonic() - began:.0f} s", flush=True)
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    sys.exit(subprocess.run([*apart, sys.executable, "-m", "scripts.deployed", "--inside"], check=False).returncode)


def lint() -> None:
    """Hold every file of docker/ against what reads it."""
    config = DOCKER / "config"
    # the sidecars' names are those of the deployment's own network
    balancer = re.sub(r"sidecar-[ab]:", "127.0.0.1:", (config / "haproxy.cfg").read_text(encoding="utf-8"))
    looks: tuple[tuple[str, list[str | Path], str | None], ...] = (
        ("Dockerfiles", ["hadolint", *sorted(DOCKER.glob("*.Dockerfile"))], None),
        (
            "compose.yaml",
            ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"],
            None,
        ),
        ("HAProxy", ["haproxy", "-c", "-f", "/dev/stdin"], balancer),
        ("Prometheus", ["promtool", "check", "rules", config / "alerts.yaml"], None),
    )
    for words, command, fed in looks:
        program = shutil.which(command[0], path=f"{_BIN}:{os.environ['PATH']}:/usr/sbin")
        if program is None:
            print(f"==> {words}: not looked at, {command[0]} is not on this machine", flush=True)
            continue
        made = subprocess.run(
            [program, *map(str, command[1:])], input=fed, capture_output=True, text=True, check=False, timeout=60
        )
        if made.returncode:
            sys.exit(f"{words}: {made.stdout}{made.stderr}")
        print(f"==> {words}: well-formed", flush=True)


def environments() -> dict[str, Path]:
    """Return the Python environment of every image, made from its lock where it is not there yet."""
    from scripts import bootstrap

    made = {}
    for image in _LOCKS:
        lock = DOCKER / f"{image}-requirements.lock"
        place = ROOT / "var" / "envs" / f"image-{image}"
        made[image] = place
        written = lock.read_text(encoding="utf-8")
        if (place / ".ready").exists() and (place / ".ready").read_text(encoding="utf-8") == written:
            continue
        settings = {**os.environ, **bootstrap.uv_settings()}
        uv, python = str(_BIN / "uv"), str(place / "bin" / "python")
        install = (uv, "pip", "install", "--quiet", "--python", python)
        steps = [
            (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)),
            (*install, "--require-hashes", "--build-constraints", str(lock), "-r", str(lock)),
        ]
        if image == "platform":
            steps.append((*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)))
        for step in steps:
            subprocess.run(step, check=True, timeout=400, env=settings)
        (place / ".ready").write_text(written, encoding="utf-8")
    return made


if __name__ == "__main__":
    main()
