"""Full training: a pipeline model learned from scratch over a window of examples.

It is the same pass an increment makes, from an empty state: every row is scored, then learned, in the examples'
one total order. A pipeline that its library fits in batch is fitted instead, and judged on the newest rows, scored by
a fit that did not know them. Before it is published a model catches up with the head of the flow, so that promoting it
never loses an example the champion had learned.
"""

from collections.abc import Mapping
from datetime import datetime

from ml_core.data.store import FeatureStore
from ml_core.errors import DataError
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from ml_core.training import passes
from ml_core.training.publishing import Trained, publish


def train_full(
    flow: Flow,
    store: FeatureStore,
    registry: Registry,
    *,
    until: datetime | None = None,
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Train from scratch and publish the result, unjudged.

    Parameters
    ----------
    until : datetime, optional
        Learn what was labelled before this instant; by default everything labelled by the flow's clock.
    tags : mapping, optional
        Further tags of the version, such as ``dagster_run_id``.

    Raises
    ------
    DataError
        The window holds no labelled example, or the store not what the head has learned.
    StateError
        The features were edited, and built anew, meanwhile.
    ProjectError, ExportError
        The pipeline cannot be built, continued as the flow wants it, or exported, or its estimator is none for the
        flow's labels; the part in the way is named.
    InputError
        An example was refused.
    """
    progress = store.progress()
    stop = progress.next_example if until is None else store.offset_at(until)
    end = until or progress.clock
    window = flow.full_training.window
    first = store.offset_at(end - window) if window is not None and end is not None else 0
    if stop <= first:
        raise DataError(
            f"{flow.name}: expected labelled examples in the training window, found none at offsets [{first}, {stop});"
            " ingest facts first, or widen full_training.window"
        )
    features, head = store.built_by(), registry.head(flow.name)
    if head is not None:
        passes.check_reach(flow, store, head)
    model = passes.build(flow, store)
    with passes.refusals_of(flow, model, store, first, progress.next_example):
        model, said = passes.begin(flow, model, store, first, stop)
        evidence = [said]
        while (head := registry.head(flow.name)) is not None and head.watermark > stop:
            passes.check_reach(flow, store, head)
            model, said = passes.advance(flow, model, store, first, stop, head.watermark)
            evidence.append(said)
            stop = head.watermark
    trained = Trained(
        kind="full",
        way=passes.way_of(flow, model),
        parent=None,
        watermark=stop,
        model=model,
        evidence=passes.joined(evidence),
        features=features,
    )
    return publish(flow, store, registry, trained, tags=passes.tags_of(flow) | dict(tags or {}))
