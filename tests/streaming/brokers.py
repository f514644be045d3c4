"""The brokers the suite runs on: the embedded one always, Apache Kafka in the slow runs, and one a user names.

Apache Kafka is resolved by Maven into var/ once and runs in KRaft mode with the machine's Java, on disk, so that it can
be killed and come back.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ml_core.data.lock import locked
from ml_core.streaming.broker import Broker

ROOT = Path(__file__).resolve().parent.parent.parent
KAFKA = "4.1.0"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>modelflow</groupId><artifactId>broker</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version>
</dependency><dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
</dependency></dependencies></project>"""


def can_run_apache() -> bool:
    """Say whether Java and Maven are on this machine."""
    return bool(shutil.which("java") and shutil.which("mvn"))


def apache_jars() -> Path:
    """Return the folder of Apache Kafka's jars, resolved by Maven when they are not there yet."""
    place = ROOT / "var" / "kafka" / KAFKA
    place.mkdir(parents=True, exist_ok=True)
    with locked(place, exclusive=True, wait_s=280):  # another worker of this session may be at it
        if not (place / ".resolved").exists():
            (place / "pom.xml").write_text(_POM)
            command = ["mvn", "-q", "-B", "-f", str(place / "pom.xml"), "dependency:copy-dependencies"]
            subprocess.run([*command, f"-DoutputDirectory={place / 'jars'}"], check=True, timeout=280)
            (place / ".resolved").touch()
    return place / "jars"


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Apache:
    """Apache Kafka of one node, on disk under `home`: it can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, controller = free_port(), free_port()
        self.broker = Broker(f"127.0.0.1:{self.port}")
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        (home / "server.properties").write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={home}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.enable=true
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=500
message.max.bytes=16777216
"""
        )
        self._java(
            "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", home / "server.properties"
        )

    def start(self) -> "Apache":
        """Start, and wait until it answers."""
        settings = str(self.home / "server.properties")
        command = ["java", "-Xmx512m", "-cp", f"{apache_jars()}/*", "kafka.Kafka", settings]
        with (self.home / "out.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise AssertionError((self.home / "out.log").read_text()[-2000:])

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _java(self, *arguments: object) -> None:
        command = ["java", "-cp", f"{apache_jars()}/*", *map(str, arguments)]
        subprocess.run(command, check=True, timeout=90, capture_output=True)


def named_broker() -> Broker | None:
    """Return the broker that KAFKA_BOOTSTRAP_SERVERS names, if any."""
    return Broker.from_environment(os.environ, default="") if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") else None
