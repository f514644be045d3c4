"""Containers without an engine: each service in namespaces of its own, on a network that exists only here.

A cell has the machine's files beneath it, read-only where the service asks for that, and over them what its image
copies, its secrets and its volumes, at the paths the container would have them. It has a network name and address of
its own, sees its own processes alone, and runs as the user of its image without capabilities. All of it lives in
namespaces of the checking process: nothing of it is left once that ends, and no packet leaves the machine.
"""

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from scripts.deployed.compose import ROOT, Service

_RUN = Path("/run/modelflow")
_BRIDGE = "modelflow"
_MANY_STARTS = 10


@dataclass
class Cell:
    """One service, running or not."""

    service: Service
    address: str
    command: list[str]
    user: str
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0
    expected: bool = field(default=False)

    @property
    def inner(self) -> int | None:
        """The service's own process, or None when it has none."""
        if self.process is None or self.process.poll() is not None:
            return None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None


class Cells:
    """All services of a deployment.

    Parameters
    ----------
    services : mapping of str to Service
    subnet : str
    place : Path
        Volumes and logs go there.
    environments : mapping of str to Path
        The Python environment of each image of ours, made from its lock.
    foreign : callable
        Returns command and user of a service whose image is not ours; None for one that cannot run here.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        subnet: str,
        place: Path,
        environments: Mapping[str, Path],
        foreign: Callable[[Service], tuple[list[str], str] | None],
    ) -> None:
        self.place = place
        self.left_out: list[str] = []
        self._environments = environments
        self._network(subnet)
        hosts = ip_network(subnet)
        self.cells: dict[str, Cell] = {}
        (place / "logs").mkdir(parents=True, exist_ok=True)
        for number, service in enumerate(services.values(), start=100):
            started = (service.command, service.built.user) if service.built else foreign(service)
            if started is None:
                self.left_out.append(service.name)
                continue
            command, user = started
            if service.built is None:  # its own image has other users than this machine
                for secret in service.mounts.values():
                    if isinstance(secret, Path) and secret.parent == place / "secrets":
                        shutil.chown(secret, user)
            address = service.address or str(hosts[number])
            self.cells[service.name] = Cell(service, address, command, user, place / "logs" / f"{service.name}.log")
        table = "".join(f"{cell.address} {name}\n" for name, cell in self.cells.items())
        self._hosts = f"127.0.0.1 localhost\n{table}"
        own = _RUN / "hosts"
        own.write_text(self._hosts)
        _run("mount", "--bind", own, "/etc/hosts")
        for name, cell in self.cells.items():
            self._join(name, cell.address, hosts.prefixlen)

    def up(self) -> None:
        """Start every service that `docker compose up` would, once what it depends on is as it wants it."""
        for name, cell in self.cells.items():
            if cell.service.on_demand:
                continue
            for other, condition in cell.service.depends_on.items():
                if condition == "service_healthy":
                    self.wait_healthy(other)
                elif condition == "service_completed_successfully":
                    self._wait_completed(other)
            self.start(name)

    def start(self, name: str) -> None:
        """Start one service."""
        cell = self.cells[name]
        script = _RUN / name / "start.sh"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(self._script(cell))
        inside = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", str(script))
        with cell.log.open("ab") as log:
            cell.process = subprocess.Popen(
                ["ip", "netns", "exec", name, *inside], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        cell.starts += 1
        cell.expected = True

    def run(self, name: str, command: Sequence[str], *, timeout_s: float) -> None:
        """Run a command in a service that is started on demand, to its end."""
        cell = self.cells[name]
        cell.command = [*(cell.service.built.entrypoint if cell.service.built else ()), *command]
        self.start(name)
        cell.expected = False
        deadline = time.monotonic() + timeout_s
        while cell.process is not None and cell.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if cell.process is None or cell.process.poll() != 0:
            self.kill(name)
            raise SystemExit(f"{name}: {' '.join(command)} failed, or took over {timeout_s:.0f} s; {self.tail(name)}")

    def kill(self, name: str) -> None:
        """Kill one service with SIGKILL, and all that it started."""
        cell = self.cells[name]
        cell.expected = False
        inner = cell.inner
        if inner is not None:
            os.kill(inner, signal.SIGKILL)
        if cell.process is not None:
            cell.process.wait(30)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one service."""
        inner = self.cells[name].inner
        if inner is None:
            raise SystemExit(f"{name}: expected it to run, it does not; see {self.cells[name].log}")
        os.kill(inner, number)

    def tend(self) -> None:
        """Start again what ended by itself, as its restart policy says."""
        for name, cell in self.cells.items():
            if cell.expected and cell.process is not None and cell.process.poll() is not None:
                if cell.service.once and cell.process.returncode == 0:
                    continue
                self.start(name)

    def healthy(self, name: str) -> bool:
        """Say whether the service's own health check, made inside its cell, passes; without one, whether it runs."""
        cell = self.cells[name]
        inner = cell.inner
        if inner is None:
            return False
        if cell.service.health is None:
            return True
        entered = ["nsenter", "--target", str(inner), "--mount", "--net", "--pid", "--root", "--"]
        made = subprocess.run(
            [*entered, *_confined(cell), *cell.service.health],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        return made.returncode == 0

    def wait_healthy(self, name: str, *, timeout_s: float = 240.0) -> float:
        """Wait until a service is healthy; return how many seconds that took."""
        started, starts = time.monotonic(), self.cells[name].starts
        while not self.healthy(name):
            self.tend()
            if time.monotonic() - started > timeout_s or self.cells[name].starts > starts + _MANY_STARTS:
                raise SystemExit(
                    f"{name} did not become healthy in {time.monotonic() - started:.0f} s; {self.tail(name)}"
                )
            time.sleep(0.3)
        return time.monotonic() - started

    def tail(self, name: str) -> str:
        """Return the end of a service's log."""
        log = self.cells[name].log
        lines = log.read_text(errors="replace").strip().splitlines()[-12:] if log.exists() else []
        return f"{log} ends with:\n" + "\n".join(lines)

    def down(self) -> None:
        """Kill everything."""
        for name in reversed(self.cells):
            self.kill(name)

    def _wait_completed(self, name: str, *, timeout_s: float = 120.0) -> None:
        cell = self.cells[name]
        deadline = time.monotonic() + timeout_s
        while cell.process is None or cell.process.poll() != 0:
            self.tend()
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} did not succeed within {timeout_s:.0f} s; {self.tail(name)}")
            time.sleep(0.2)

    def volume(self, name: str, user: str) -> Path:
        """Return the folder of a volume, made for `user` when it is not there yet."""
        folder = self.place / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            shutil.chown(folder, user if not user.isdigit() else int(user), None)
        return folder

    def _script(self, cell: Cell) -> str:
        """Return the shell script that makes the cell and becomes the service."""
        service, place = cell.service, _RUN / cell.service.name
        root, above = place / "root", place / "above"
        lines = [
            "set -eu",
            f"hostname {service.name}",
            "mount --make-rprivate /",
            f"mkdir -p {root} {above}",
            f"mount -t tmpfs tmpfs {above}; mkdir {above}/files {above}/work",
            f"mount -t overlay overlay -o lowerdir=/,upperdir={above}/files,workdir={above}/work {root}",
            f"mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc; mount -t tmpfs tmpfs {root}/run",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp; : > {root}/etc/resolv.conf",
            f"cp {_RUN}/hosts {root}/etc/hosts",
        ]
        for folder in {ROOT, Path(sys.base_prefix)}:
            lines.append(_bound(folder, root, str(folder)))
            lines += [f"chmod o+x {root}{parent}" for parent in folder.parents if str(parent) != "/"]
        if service.built is not None:
            image = service.image.removeprefix("modelflow-")
            lines.append(_bound(self._environments[image], root, "/opt/venv"))
        # outer places first, so that none hides an inner one
        for target, source in sorted(service.mounts.items()):
            found = self.volume(source, cell.user) if isinstance(source, str) else source
            lines.append(_bound(found, root, target))
        if service.read_only:
            lines.append(f"mount -o remount,ro {root}")
        command = shlex.join(["chroot", str(root), *_confined(cell), *cell.command])
        return "\n".join([*lines, f"exec {command}", ""])

    def _network(self, subnet: str) -> None:
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        _RUN.mkdir()
        Path("/run/netns").mkdir()
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        network = ip_network(subnet)
        _run("ip", "address", "add", f"{network[1]}/{network.prefixlen}", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")

    def _join(self, name: str, address: str, prefix: int) -> None:
        link = f"to{address.rsplit('.', 1)[1]}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", link, "master", _BRIDGE, "up")
        for what in (("address", "add", f"{address}/{prefix}", "dev", "eth0"), ("link", "set", "eth0", "up"),
                     ("link", "set", "lo", "up")):  # fmt: skip
            _run("ip", "-n", name, *what)


def _confined(cell: Cell) -> list[str]:
    """Return how a command starts as the cell's user, with the environment and in the folder of its image."""
    service = cell.service
    privileges = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"] if service.confined else []
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    environment = path | dict(service.environment)
    if service.built is not None:
        environment["PATH"] = f"{service.environment['PATH']}:{path['PATH']}"
    settings = [f"{key}={value}" for key, value in environment.items()]
    folder = service.built.workdir if service.built else "/"
    group = cell.user if cell.user.isdigit() else str(pwd.getpwnam(cell.user).pw_gid)
    identity = ["--reuid", cell.user, "--regid", group, "--clear-groups"]
    return ["setpriv", *identity, *privileges, "env", "-i", "-C", folder, *settings]


def _bound(source: Path, root: Path, target: str) -> str:
    """Return the shell line that mounts a file or folder at a place of the cell."""
    at = shlex.quote(f"{root}{target}")
    made = f"mkdir -p {at}" if source.is_dir() else f"mkdir -p $(dirname {at}); touch {at}"
    return f"{made}; mount --bind {shlex.quote(str(source))} {at}"


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, timeout=30)
