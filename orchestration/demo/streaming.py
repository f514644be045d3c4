"""The demo's streaming act: the autumn once more, over a broker, into a model that streams.

It begins where the other act begins: a copy of the store as history left it, and the first version. The facts go
through a broker as fast as it takes them; `modelflow ingest` makes features and examples of them, a resident learner
continues the first version, and publishes every so many examples. `modelflow rescore` then says what predictors would
have answered that look at that stream at several intervals, all in the flow's own time.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml_core.data.store import FeatureStore
from ml_core.flow.registry import Registry
from ml_core.project import Flow, Project
from ml_core.streaming.broker import Broker
from ml_core.streaming.embedded import embedded_broker
from ml_core.streaming.ingest import fact_topic
from ml_core.streaming.learner import Learner
from ml_core.streaming.records import THROUGH, write_arrow
from orchestration.processes import Supervisor

# how many labels a publication waits for; a follower that looks at once lags behind by no more
PUBLISH_ROWS = 32
_FOR_GOOD = timedelta(days=365)
_FACTS_A_RECORD = 1_000
_PATIENCE_S = 600.0


def stream(
    project: Project,
    flow: Flow,
    registry: Registry,
    supervisor: Supervisor,
    facts: Mapping[str, pa.Table],
    *,
    since: datetime,
    until: datetime,
) -> pa.Table:
    """Stream the facts known after `since` up to `until`, and return what was answered at each sync interval.

    Returns
    -------
    pyarrow.Table
        `key`, `request_time`, and a column of scores per interval; see `serving.rescoring`.
    """
    home = project.home / "streamed"
    shutil.copytree(FeatureStore(flow, root=project.root, home=project.home).directory, home / "flows" / flow.name)
    store = FeatureStore(flow, root=project.root, home=home)
    with embedded_broker() as broker:
        environment = {"MODELFLOW_HOME": str(home), "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}

        def run(name: str, *command: str) -> None:
            modelflow = Path(sys.executable).with_name("modelflow")
            supervisor.start(name, [str(modelflow), *command], environment=environment, folder=project.root)

        _send(broker, flow, facts, since=since, until=until)
        run("ingest", "ingest", flow.name, "--until-idle")
        _learn(flow, store, registry, broker, lambda: supervisor.ended("ingest"))
        scores = home / "scores.parquet"
        run("rescore", "rescore", flow.name, "--to", str(scores))
        supervisor.wait_until_ended("rescore", timeout_s=_PATIENCE_S)
        return pq.read_table(scores)


def _send(broker: Broker, flow: Flow, facts: Mapping[str, pa.Table], *, since: datetime, until: datetime) -> None:
    """Send each kind of fact to its topic, many to a record, and a tick behind the last."""
    producer = broker.producer()
    sending = []
    for kind in flow.stream.facts:
        topic = fact_topic(flow.name, kind)
        broker.ensure(topic, keep=True)
        known = facts[kind].column("known_at")
        sent = facts[kind].filter(pc.and_(pc.greater(known, since), pc.less_equal(known, until)))
        for first in range(0, sent.num_rows, _FACTS_A_RECORD):
            value = write_arrow(sent.slice(first, _FACTS_A_RECORD).combine_chunks())
            sending.append(producer.send(topic, key=b"facts", value=value, partition=0))
        through = [(THROUGH, until.isoformat().encode())]
        sending.append(producer.send(topic, key=b"tick", headers=through, partition=0))
    for sent in sending:
        sent.get(timeout=30)
    producer.close()


def _learn(flow: Flow, store: FeatureStore, registry: Registry, broker: Broker, ended: Callable[[], bool]) -> None:
    """Continue the flow's head until no example is left; publish by rows alone, and register nothing."""
    told: dict[str, object] = {"publish_rows": PUBLISH_ROWS}
    told |= dict.fromkeys(("publish_every", "register_every", "checkpoint_every"), _FOR_GOOD)
    stream = flow.stream.model_copy(update={"learn": flow.stream.learn.model_copy(update=told)})
    learner = Learner(flow.model_copy(update={"stream": stream}), store, registry, broker)
    try:
        learner.publish()  # the version that is continued, as it is
        while not ended() or learner.waiting:
            learner.step()
        learner.publish()
    finally:
        learner.close()
