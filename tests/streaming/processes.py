"""A project of its own on disk, its commands as real processes, and moments at which they are killed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ml_core.project import Flow
from ml_core.streaming.broker import Broker
from tests.streaming.orders import PROJECT

MODELFLOW = Path(sys.executable).with_name("modelflow")


@dataclass(frozen=True)
class ProjectOnDisk:
    """A project file, and where its processes keep their state."""

    root: Path
    broker: Broker

    @classmethod
    def write(cls, root: Path, flow: Flow, broker: Broker) -> "ProjectOnDisk":
        """Write the project of the flow of orders; `features.sql` is there already."""
        (root / "dagster_project.toml").write_text(PROJECT.format(name=flow.name), encoding="utf-8")
        return cls(root, broker)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start `modelflow <command>`."""
        environment = os.environ | {
            "MODELFLOW_HOME": str(self.root / "home"),
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
        }
        return subprocess.Popen(
            [MODELFLOW, *command],
            cwd=self.root,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *command: str, timeout_s: float = 120) -> str:
        """Run a command to its end and return what it printed."""
        process = self.start(*command)
        out, err = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, err
        return out

    def kill_at_random(
        self, command: tuple[str, ...], *, times: int, seed: int, begun: Callable[[], bool], longest_s: float
    ) -> None:
        """Start a command again and again and kill it, each time within `longest_s` after `begun` first said so."""
        moments = random.Random(seed)  # noqa: S311 - moments, not secrets
        for _ in range(times):
            process = self.start(*command)
            try:
                while process.poll() is None and not begun():
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(0.02)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(moments.uniform(0, longest_s))
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
