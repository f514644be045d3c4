"""The processes of a platform: started together, watched, and never left behind.

Each child runs under a guard in a process group of its own. It ends when it is stopped, and when this process dies,
even by SIGKILL. Should a guard itself be killed, the next start finds what is left by a mark in its environment and
ends it.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ml_core.errors import PlatformError
from ml_core.project import Flow

_MARK, _SUPERVISOR = "MODELFLOW_SUPERVISED_BY", "MODELFLOW_SUPERVISOR_PID"
_STOP_S = 12.0
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Supervisor:
    """Starts and stops the processes of one home.

    Parameters
    ----------
    home : Path
        Logs go to `logs/` under it; it also marks the processes as this platform's.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._children: list[_Child] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start a command, in `folder` where one is given, as a child that cannot outlive this process."""
        log = self._home / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        guarded = [sys.executable, "-m", "orchestration.guard", str(os.getpid()), "--", *command]
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ
                | _QUIET
                | dict(environment or {})
                | {_MARK: str(self._home), _SUPERVISOR: str(os.getpid())},
                start_new_session=True,
                cwd=folder,
            )
        self._children.append(_Child(name, process, log))

    def wait_until(self, name: str, ready: Callable[[], bool], *, timeout_s: float = 90.0) -> None:
        """Wait until `ready` says so; raise PlatformError when the child ends first or takes too long."""
        child = self._child(name)
        deadline = time.monotonic() + timeout_s
        while not ready():
            if child.process.poll() is not None:
                raise PlatformError(
                    f"{name} ended with code {child.process.returncode} instead of getting ready; {child.log}"
                    f" ends with: {_tail(child.log)}"
                )
            if time.monotonic() > deadline:
                raise PlatformError(f"{name} was not ready within {timeout_s:.0f} s; see {child.log}")
            time.sleep(0.05)

    def ended(self, name: str) -> bool:
        """Say whether a child has done what it was started for; raise PlatformError when it failed."""
        child = self._child(name)
        if child.process.poll():
            raise PlatformError(
                f"{name} ended with code {child.process.returncode}; {child.log} ends with: {_tail(child.log)}"
            )
        return child.process.returncode == 0

    def wait_until_ended(self, name: str, *, timeout_s: float) -> None:
        """Wait until a child has done what it was started for; raise PlatformError when it fails or takes too long."""
        with suppress(subprocess.TimeoutExpired):
            self._child(name).process.wait(timeout_s)
        if not self.ended(name):
            raise PlatformError(f"{name} did not end within {timeout_s:.0f} s; see {self._child(name).log}")

    def check(self) -> None:
        """Raise PlatformError when a child has ended."""
        for child in self._children:
            if child.process.poll() is not None:
                raise PlatformError(f"{child.name} ended with code {child.process.returncode}; see {child.log}")

    def stop(self) -> None:
        """End every child and everything it started, the last one started first."""
        if not self._children:
            return
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.terminate()
        for child in reversed(self._children):
            try:
                child.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
        self._children.clear()
        self.reap()

    def _child(self, name: str) -> _Child:
        return next(child for child in self._children if child.name == name)

    def reap(self) -> int:
        """End processes an earlier supervisor of this home left behind; return how many there were.

        Raises
        ------
        PlatformError
            That supervisor lives, and they are not left behind at all.
        """
        mark = f"{_MARK}={self._home}".encode()
        left = [pid for pid in _processes() if pid != os.getpid() and mark in _environment(pid)]
        for pid in left:
            # a guard that is still the child of who started it; an orphan has been given to somebody else
            if (parent := _parent(pid)) != os.getpid() and f"{_SUPERVISOR}={parent}".encode() in _environment(pid):
                raise PlatformError(f"{self._home} is in use by process {parent}; stop that one first (Ctrl-C there)")
        for pid in left:
            _kill(pid)
        return len(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(ports: Sequence[tuple[str, int]]) -> None:
    """Raise PlatformError naming the first port that is in use, and the key of the project file that sets it."""
    for key, port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise PlatformError(
                    f"port {port} is in use ({error.strerror}); stop what holds it or set platform.{key} to another"
                ) from error


def answers(port: int, path: str) -> bool:
    """Say whether a GET on loopback is answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start_mlflow(supervisor: Supervisor, home: Path, port: int) -> str:
    """Start an MLflow server on sqlite under `home`; return its address. Wait with `wait_for_mlflow`."""
    folder = home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    supervisor.start(
        "mlflow",
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *(
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination",
                str(folder / "artifacts"),
            ),
        ],
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    return f"http://127.0.0.1:{port}"


def wait_for_mlflow(supervisor: Supervisor, port: int) -> None:
    """Wait until the MLflow server answers."""
    supervisor.wait_until("mlflow", lambda: answers(port, "/health"))


def start_sidecar(
    supervisor: Supervisor, flow: Flow, tracking_uri: str, *, home: Path, port: int, address: str | None = None
) -> None:
    """Start a sidecar that follows `address`, the flow's own by default; it is ready once there is a version."""
    followed = address or flow.address
    name = "sidecar-" + followed.removeprefix("models:/").replace("/", "-")
    supervisor.start(
        name,
        [
            *(sys.executable, "-m", "serving", followed, "--tracking-uri", tracking_uri, "--port", str(port)),
            *("--poll-interval", str(flow.serving.poll_interval_s), "--cache", str(home / "serving" / name)),
            *(("--log", str(home / flow.serving.prediction_log)) if flow.serving.prediction_log else ()),
            *(("--max-staleness", str(staleness.total_seconds())) if (staleness := flow.serving.max_staleness) else ()),
        ],
    )
    supervisor.wait_until(name, lambda: answers(port, "/v2/health/live"))


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or belongs to somebody else
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
