"""Publishing a version to MLflow, and finishing or undoing what an interrupted publisher left.

The run that carries the artifacts is made first and the version last, so readers never see a version that is not
whole. Until the run has ended it names the process that publishes: that is the journal of a publication. A run whose
process has ended either registered its version, and is closed, or did not, and is deleted with its artifacts.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion as MlflowVersion

from ml_core.flow.package import MANIFEST, file_digest
from ml_core.flow.shelf import Shelf
from ml_core.process import has_ended, this_process

PACKAGE, EVALUATION = "model", "evaluation"

_PUBLISHER = "modelflow.publisher"
# a publisher on another machine, of which nothing is known, is given this long
_PATIENCE = timedelta(hours=1)


def upload(
    shelf: Shelf,
    flow: str,
    package: Path,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    evaluation: Path,
) -> MlflowVersion:
    """Upload a package and its evidence, then register them as a new version; see `Registry.publish`."""
    client = shelf.client
    marks = {"mlflow.runName": f"{flow} {tags['kind']}", _PUBLISHER: this_process()}
    experiment = shelf.experiment(flow)
    run = shelf.ask(lambda: client.create_run(experiment, tags=marks))
    run_id = run.info.run_id
    shelf.ask(
        lambda: client.log_batch(
            run_id,
            metrics=[Metric(name, value, run.info.start_time, 0) for name, value in metrics.items()],
            params=[Param(name, tags[name]) for name in ("kind", "parent", "watermark") if tags.get(name)],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
    )
    shelf.ask(lambda: client.log_artifacts(run_id, str(package), PACKAGE))
    shelf.ask(lambda: client.log_artifacts(run_id, str(evaluation), EVALUATION))
    all_tags = dict(tags) | {
        "manifest_sha256": file_digest(package / MANIFEST),
        "metrics": json.dumps(dict(metrics), sort_keys=True),
    }
    created = shelf.register(flow, f"{run.info.artifact_uri}/{PACKAGE}", run_id, all_tags)
    shelf.ask(lambda: client.set_terminated(run_id))
    return created


def finish_interrupted(shelf: Shelf, flow: str, *, now: datetime) -> list[str]:
    """Close or delete the runs of publishers that are gone; return what was done, one sentence each."""
    done = []
    for run in shelf.running(flow):
        publisher = run.data.tags.get(_PUBLISHER)
        late = now.timestamp() * 1_000 - run.info.start_time > _PATIENCE.total_seconds() * 1_000
        if publisher is None or not (late or has_ended(publisher)):
            continue
        run_id = run.info.run_id
        version = shelf.version_of_run(run_id)
        if version is None:
            shelf.delete_run(run_id)  # as it is: one that is marked as failed would not be looked at again
            done.append(f"deleted run {run_id}, whose publisher ended before it registered a version")
        else:
            shelf.ask(lambda run_id=run_id: shelf.client.set_terminated(run_id, "FINISHED"))  # type: ignore[misc]
            done.append(f"closed run {run_id} of version {version.version}, whose publisher ended before it did")
    return done
