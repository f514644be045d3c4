"""The resident learner and the ingester as Dagster sees them: what they registered, how far behind they are.

They are processes of their own (`modelflow learn`, `modelflow ingest`), and Dagster starts neither. A sensor reads what
the learner wrote down and the registry holds: versions it registered become materialisations of the flow's
`incremental_model`, how it stands becomes two checks of `served_model`. Only a flow whose facts come over Kafka has it.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ml_core.data.store import FeatureStore
from ml_core.flow.registry import Registry
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from orchestration.assets.models import described
from orchestration.assets.names import LEARNER_CHECKS, key
from orchestration.resources import Platform

LAG, FRESH = LEARNER_CHECKS
_MANY_PUBLICATIONS = 60
_NEWEST = 50


def stream_checks(flow: Flow) -> dg.AssetChecksDefinition:
    """Return the checks of how the resident learner stands; the sensor evaluates them, and people may."""

    @dg.multi_asset_check(
        name=f"{flow.name}_learner",
        specs=[
            dg.AssetCheckSpec(
                LAG,
                asset=key(flow, "served_model"),
                description="Fewer examples wait for the resident learner than would start an increment.",
            ),
            dg.AssetCheckSpec(
                FRESH,
                asset=key(flow, "served_model"),
                description="What was learned was published lately, and no circuit breaker holds it back.",
            ),
        ],
        can_subset=True,
    )
    def learner(context: dg.AssetCheckExecutionContext, platform: Platform) -> Any:
        wanted = {each.name for each in context.selected_asset_check_keys}
        for name, passed, said, metadata in standing(flow, platform.store(flow), platform.now()):
            if name in wanted:
                yield dg.AssetCheckResult(
                    asset_key=key(flow, "served_model"),
                    check_name=name,
                    passed=passed,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=said,
                    metadata=metadata,
                )

    made: dg.AssetChecksDefinition = learner
    return made


def stream_sensor(flow: Flow) -> dg.SensorDefinition:
    """Return the sensor that tells Dagster what the resident learner did."""

    @dg.sensor(
        name=f"{flow.name}_learner",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells what the resident learner registered, how far it is behind, and when it last published.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        store, registry = platform.store(flow), platform.registry()
        if not _status_file(store).exists():
            return dg.SkipReason(f"{flow.name}: no resident learner has published anything yet")
        events: list[Any] = [
            dg.AssetCheckEvaluation(
                asset_key=key(flow, "served_model"),
                check_name=name,
                passed=passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=said,
                metadata=metadata,
            )
            for name, passed, said, metadata in standing(flow, store, platform.now())
        ]
        events += [
            dg.AssetMaterialization(
                key(flow, "incremental_model"),
                description=f"registered by the resident learner: version {version.version}",
                metadata=described(registry, version),
            )
            for version in _untold(flow, registry, context.instance)
        ]
        return dg.SensorResult(asset_events=events)

    return sensor


def standing(flow: Flow, store: FeatureStore, now: datetime) -> list[tuple[str, bool, str, Mapping[str, Any]]]:
    """Return name, verdict, words and figures of both checks, by what the learner last wrote down."""
    file = _status_file(store)
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError:
        said = "no resident learner has published anything yet"
        return [(name, False, said, {}) for name in (LAG, FRESH)]
    waiting = max(store.progress().next_example - int(told["watermark"]), 0)
    limit = flow.incremental_training.min_rows
    age = now - at
    longest = max(_MANY_PUBLICATIONS * flow.stream.learn.publish_every, timedelta(minutes=1))
    # one that has nothing to learn has nothing to publish
    fresh = told["breaker"] is None and (age <= longest or not waiting)
    figures = {name: told[name] for name in ("learned", "publications", "published_bytes") if told[name] is not None}
    figures |= {"waiting": waiting, "publish_age_s": age.total_seconds(), "watermark": told["watermark"]}
    figures |= {} if told["loss"] is None else {"prequential_loss": float(told["loss"])}
    why = told["breaker"] or f"last published {age.total_seconds():.0f} s ago, {waiting} examples wait"
    return [
        (LAG, waiting < limit, f"{waiting} examples wait, fewer than {limit} wanted", figures),
        (FRESH, fresh, str(why), figures),
    ]


def _untold(flow: Flow, registry: Registry, instance: dg.DagsterInstance) -> list[ModelVersion]:
    """Return what the learner registered since the version that Dagster knows of last, among the newest."""
    event = instance.get_latest_materialization_event(key(flow, "incremental_model"))
    known = event.asset_materialization.metadata.get("version") if event and event.asset_materialization else None
    last = int(str(known.value)) if known is not None else 0
    newest = registry.versions(flow.name, newest=_NEWEST)
    return [version for version in newest if version.kind == "stream" and version.version > last]


def _status_file(store: FeatureStore) -> Any:
    return store.directory / "learner" / "status.json"
