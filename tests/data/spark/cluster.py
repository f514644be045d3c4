"""A standalone cluster of Spark: a master and workers as processes of their own on loopback, stopped by their ids."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Cluster:
    """A running cluster.

    Attributes
    ----------
    master : str
        Its address.
    workers : list of Popen
        Each runs one executor as a child process.
    """

    master: str
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def kill(self, worker: int) -> list[int]:
        """Kill a worker and its executors at once; return the ids of the executors."""
        import psutil

        process = psutil.Process(self.workers[worker].pid)
        children = process.children(recursive=True)
        for each in (process, *children):
            each.send_signal(signal.SIGKILL)
        self.workers[worker].wait(timeout=30)
        return [each.pid for each in children]

    def executors(self) -> int:
        """Return how many executors run now."""
        import psutil

        alive = [psutil.Process(worker.pid) for worker in self.workers if worker.poll() is None]
        return sum(len(worker.children(recursive=True)) for worker in alive)


@contextmanager
def cluster(folder: Path, *, workers: int, memory: str) -> Iterator[Cluster]:
    """Start a master and workers of one core each from pyspark's own jars; stop them all at the end."""
    import pyspark

    home = Path(pyspark.__file__).parent
    port = _free_port()
    made = Cluster(f"spark://127.0.0.1:{port}", folder)
    try:
        made.processes.append(
            _java(home, folder, "master", "master.Master", "--host", "127.0.0.1", "--port", str(port))
        )
        _answers(port, made.processes[0], folder / "master.log")
        for number in range(workers):
            place = ("--work-dir", str(folder / f"work-{number}"), "--cores", "1", "--memory", memory)
            started = _java(
                home, folder, f"worker-{number}", "worker.Worker", "--host", "127.0.0.1", *place, made.master
            )
            made.workers.append(started)
            made.processes.append(started)
        _registered(folder / "master.log", workers)
        yield made
    finally:
        for process in reversed(made.processes):
            if process.poll() is None:
                process.terminate()
        for process in made.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=20)


def _java(home: Path, folder: Path, name: str, main: str, *arguments: str) -> subprocess.Popen[bytes]:
    # the last is what sbin/ sets, so that a worker finds the jars of an executor
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.13"}
    options = ("-Xmx256m", "-cp", f"{home}/jars/*", f"-Dspark.local.dir={folder / 'local'}")
    unused = ("--webui-port", "0")
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["java", *options, f"org.apache.spark.deploy.{main}", *unused, *arguments],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int, process: subprocess.Popen[bytes], log: Path, wait_s: float = 90) -> None:
    until = time.monotonic() + wait_s
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"no master after {wait_s} s: {log.read_text()[-2000:]}")


def _registered(log: Path, workers: int, wait_s: float = 120) -> None:
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        if log.read_text().count("Registering worker") >= workers:
            return
        time.sleep(0.2)
    raise AssertionError(f"expected {workers} workers after {wait_s} s: {log.read_text()[-2000:]}")
