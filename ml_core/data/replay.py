"""Playing a finite source into the event log, as if its facts were becoming known now."""

import importlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from ml_core.data.log import EventLog
from ml_core.errors import ProjectError
from ml_core.project import Flow


class Replay:
    """Feeds a source's facts into a log in the order they became known.

    Parameters
    ----------
    facts : mapping of str to pyarrow.Table
        Per partition, all its facts sorted by `known_at`.
    """

    def __init__(self, facts: Mapping[str, pa.Table]) -> None:
        self._facts = dict(facts)
        self._known = {
            name: table.column("known_at").cast(pa.int64()).to_numpy() for name, table in self._facts.items()
        }

    @property
    def end(self) -> datetime:
        """The instant by which every fact is known."""
        last: datetime = max(table.column("known_at")[-1].as_py() for table in self._facts.values() if table.num_rows)
        return last

    def ingest(self, log: EventLog, until: datetime) -> None:
        """Append every fact known by `until` that the log does not hold yet; it goes on from the log's own offsets."""
        instant = round(until.timestamp() * 1_000_000)
        for name, table in self._facts.items():
            last = log.last(name)
            first = last.next if last else 0
            stop = int(np.searchsorted(self._known[name], instant, side="right"))
            if last is None or until > last.through:
                log.append(name, table.slice(first, max(stop - first, 0)), through=until)


def load_facts(flow: Flow, cache: Path) -> dict[str, pa.Table]:
    """Call a flow's loader; raise ProjectError when it cannot be found.

    Parameters
    ----------
    cache : Path
        Where the loader may keep what it unpacks.
    """
    module, _, name = (flow.data.loader or "").partition(":")
    try:
        loader = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ProjectError(
            f"flows.{flow.name}.data.loader = {flow.data.loader!r}: expected <module>:<function>, found {error}"
        ) from error
    loaded: dict[str, pa.Table] = loader(cache)
    return loaded
