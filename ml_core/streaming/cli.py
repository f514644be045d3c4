"""`modelflow ingest`: Kafka into the event log, features and examples out. `modelflow learn`: a model out of those."""

import json
import logging
import threading
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ml_core.data.store import FeatureStore
from ml_core.errors import BrokerDownError, ModelFlowError, StoreBusyError
from ml_core.process import do_without, keep_what_is_loaded, told_to_stop
from ml_core.project import Flow, Project, load_project
from ml_core.streaming.broker import Broker
from ml_core.streaming.feed import Feed
from ml_core.streaming.ingest import Ingested, Ingester

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_core.streaming.learner import Learner

_PAUSE_S = 1.0
_FIRST_PAUSE_S = 5.0
_LOG = logging.getLogger("modelflow.streaming")


def broker_of(project: Project, flow: Flow) -> Broker:
    """Return the broker a flow's topics are on."""
    return Broker.from_environment(project.kafka, default=flow.stream.bootstrap_servers)


def ingest(
    flow: Annotated[str, typer.Argument(help="the flow, by its name in dagster_project.toml")],
    partitions: Annotated[int, typer.Option(help="Kafka partitions of topics that do not exist yet")] = 1,
    until_idle: Annotated[bool, typer.Option(help="end once the topics hold nothing more")] = False,
    skip_lost: Annotated[bool, typer.Option(help="go on past records the broker deleted unread")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object at the end")] = False,
) -> None:
    """Take the facts of a flow from Kafka into its event log; emit its examples and feature rows."""
    project = load_project()
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    do_without("pandas")
    keep_what_is_loaded()
    taken = run_ingest(
        found, store, broker_of(project, found), partitions, skip_lost=skip_lost, until_idle=until_idle,
        stop=told_to_stop(),
    )  # fmt: skip
    typer.echo(json.dumps(asdict(taken)) if as_json else f"{taken.facts} facts, {taken.refused} dead letters")


def run_ingest(
    flow: Flow,
    store: FeatureStore,
    broker: Broker,
    partitions: int,
    *,
    skip_lost: bool,
    until_idle: bool,
    stop: threading.Event,
) -> Ingested:
    """Ingest until told to stop, or until the topics hold nothing more; return what was taken in.

    A broker that is away is waited for, unless the command is to end by itself. What was read and not committed is read
    again: a new ingester begins where the log stands.
    """
    total = Ingested()
    while True:
        try:
            with ExitStack() as opened:
                ingester = Ingester(flow, store.log, broker, partitions=partitions, skip_lost=skip_lost)
                opened.enter_context(closing(ingester))
                feed = opened.enter_context(closing(Feed(flow, store, broker, partitions=partitions)))
                ingester.total = total
                _take_in(ingester, feed, store, until_idle=until_idle, stop=stop)
        except BrokerDownError as error:
            if until_idle:
                raise
            _LOG.warning("%s: %s", flow.name, error)
            if not stop.wait(_PAUSE_S):
                continue
        return total


def _take_in(ingester: Ingester, feed: Feed, store: FeatureStore, *, until_idle: bool, stop: threading.Event) -> None:
    """Let facts into the log, and what they make out of the store.

    The feature store is owned for as long as nobody else waits for it. While another process has it, facts go on coming
    into the log, and are absorbed later.
    """
    idle = False
    while not (stop.is_set() or (idle and until_idle)):
        try:
            with store.session():
                while not (stop.is_set() or (idle and until_idle) or store.wanted()):
                    idle = not ingester.step().segments and ingester.lag() == 0
                    feed.step()
        except StoreBusyError as error:
            _LOG.warning("not absorbed yet: %s", error)
            ingester.step()


def learn(
    flow: Annotated[str, typer.Argument(help="the flow, by its name in dagster_project.toml")],
    until_idle: Annotated[
        bool, typer.Option(help="end once every example of the store is learned, and register what was learned")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="how it stands at the end, as one JSON object")] = False,
) -> None:
    """Continue the flow's head with every example as it comes; publish the model to its topic and to the registry."""
    from ml_core.flow.registry import registry_of
    from ml_core.streaming.learner import Learner

    project = load_project()
    found = project.flow(flow)
    store = FeatureStore(found, root=project.root, home=project.home)
    stop = told_to_stop()
    begin = partial(Learner, found, store, registry_of(project), broker_of(project, found))
    learner = begin() if until_idle else _once_possible(begin, stop)
    if learner is None:
        return
    try:
        run_learn(learner, until_idle=until_idle, stop=stop)
    finally:
        learner.close()
    at = learner.position
    told = {"base": at.base, "watermark": at.watermark, "learned": learner.learned}
    typer.echo(json.dumps(told) if as_json else f"{learner.learned} examples learned, up to {at.watermark}")


def _once_possible(begin: "Callable[[], Learner]", stop: threading.Event) -> "Learner | None":
    """Return a learner as soon as there is a version to continue, and the broker and the registry answer."""
    said = ""
    while not stop.is_set():
        try:
            return begin()
        except ModelFlowError as error:
            if not error.retryable:
                raise
            if str(error) != said:
                _LOG.warning("not learning yet: %s", error)
                said = str(error)
        stop.wait(_FIRST_PAUSE_S)
    return None


def run_learn(learner: "Learner", *, until_idle: bool, stop: threading.Event) -> None:
    """Learn until told to stop, or until the store holds no further example; what is away is waited for.

    In the latter case the last things learned are published and registered, on the head as it is by then.
    """
    while not stop.is_set():
        try:
            learned = learner.step()
        except ModelFlowError as error:
            if not error.retryable:
                raise
            _LOG.warning("%s", error)
            stop.wait(_PAUSE_S)
            continue
        if until_idle and not learned and not learner.waiting:
            break
    if not stop.is_set():
        learner.finish()
