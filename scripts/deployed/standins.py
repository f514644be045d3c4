"""The images that are not ours: the same programs from Debian's packages and Maven, started as their images start them.

PostgreSQL makes its cluster and runs the scripts of /docker-entrypoint-initdb.d, Apache Kafka turns KAFKA_<SETTING>
into its properties and formats its storage, HAProxy and Prometheus are started by the compose file's own command.
Grafana is in no index at hand; its dashboard is held against the metrics by a test instead.
"""

import shutil
import subprocess
from pathlib import Path

from scripts.deployed.compose import Service
from tests.streaming.brokers import apache_jars

PACKAGES = ("postgresql", "haproxy", "prometheus", "iproute2", "wget")
_PROGRAMS = ("haproxy", "prometheus", "ip", "wget")

_POSTGRES = r"""
export PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH PGHOST=/tmp
data=/var/lib/postgresql/data/cluster
if [ ! -s $data/PG_VERSION ]; then
  initdb --pgdata $data --username postgres --pwfile "$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS \
    --auth-host scram-sha-256 --auth-local trust
  echo "host all all all scram-sha-256" >> $data/pg_hba.conf
  pg_ctl --pgdata $data --wait --options "-c listen_addresses= -k /tmp" start
  for script in /docker-entrypoint-initdb.d/*.sql; do psql -v ON_ERROR_STOP=1 -U postgres -f "$script"; done
  pg_ctl --pgdata $data --wait --mode fast stop
fi
exec postgres -D $data -c listen_addresses='*' -k /tmp
"""

_KAFKA = """
mkdir -p $KAFKA_LOG_DIRS/node
env | grep ^KAFKA_ | while IFS='=' read -r name value; do
  echo "$(echo ${name#KAFKA_} | tr A-Z_ a-z.)=$value"
done > /tmp/server.properties
sed -i "s|^log.dirs=.*|log.dirs=$KAFKA_LOG_DIRS/node|" /tmp/server.properties
export CLASSPATH='JARS/*'
java kafka.tools.StorageTool format --ignore-formatted -t $CLUSTER_ID -c /tmp/server.properties
exec java -Xmx1g kafka.Kafka /tmp/server.properties
"""


def install() -> None:
    """Install what is missing of Debian's packages, and resolve the broker; needs root and the network."""
    initdb = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not initdb or not all(map(shutil.which, _PROGRAMS)):
        command = ["apt-get", "install", "--yes", "--quiet", "--quiet", "--no-install-recommends", *PACKAGES]
        subprocess.run(command, check=True, timeout=400, stdout=subprocess.DEVNULL)
    apache_jars()


def standin(service: Service) -> tuple[list[str], str] | None:
    """Return the command that stands for a foreign image's own, and its user; None where there is no such program."""
    match service.name:
        case "postgres":
            return ["sh", "-euc", _POSTGRES], "postgres"
        case "kafka":
            return ["sh", "-euc", _KAFKA.replace("JARS", str(apache_jars()))], "nobody"
        case "balancer":
            return service.command, "haproxy"
        case "prometheus":
            return ["prometheus", *service.command], "prometheus"
        case _:
            return None
