"""The trainings and the promotion of a flow. Each body calls `ml_core` and says what came of it."""

import json

import dagster as dg

from ml_core.flow.registry import Registry
from ml_core.flow.verdict import Verdict
from ml_core.flow.version import ModelVersion
from ml_core.project import Flow
from ml_core.training import roll_back_if_worse, settle, train_full, train_increment
from ml_core.training.card import card_of
from orchestration.assets.names import key, presented
from orchestration.attempts import REFUSED
from orchestration.outcomes import reported
from orchestration.resources import Platform


def model_assets(flow: Flow) -> list[dg.AssetsDefinition]:
    """Return the assets `full_model`, `incremental_model` and `served_model` of a flow."""

    @dg.asset(
        **presented(
            flow,
            "full_model",
            kinds={"mlflow", "onnx"},
            description="A version learned from scratch over the training window; each row is scored, then learned.",
        ),
        deps=[key(flow, "features")],
    )
    def full_model(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        with reported(context, flow):
            registry, store = platform.registry(), platform.store(flow)
            store.absorb()  # where features.sql changed, the table is built anew first
            version = train_full(flow, store, registry, tags={"dagster_run_id": context.run.run_id})
            return dg.MaterializeResult(metadata=described(registry, version))

    @dg.asset(
        **presented(
            flow,
            "incremental_model",
            kinds={"mlflow", "onnx"},
            description="The served version continued over the examples labelled since, from its exact state.",
        ),
        deps=[key(flow, "features")],
    )
    def incremental_model(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        with reported(context, flow):
            registry, store = platform.registry(), platform.store(flow)
            if (rolled_back := roll_back_if_worse(flow, store, registry)) is not None:
                context.log.warning("rolled back to version %s: %s", rolled_back.champion, rolled_back.why)
            version = train_increment(flow, store, registry, tags={"dagster_run_id": context.run.run_id})
            if version is None:
                return dg.MaterializeResult(metadata={"outcome": "nothing was labelled since the head was trained"})
            return dg.MaterializeResult(metadata=described(registry, version))

    @dg.asset(
        **presented(
            flow,
            "served_model",
            kinds={"mlflow"},
            description="The champion: the newest version the gate accepted, in stage Production; followers serve it.",
        ),
        deps=[key(flow, "full_model"), key(flow, "incremental_model")],
        check_specs=[
            dg.AssetCheckSpec(
                "gate",
                asset=key(flow, "served_model"),
                blocking=True,
                description="What this run trained kept its limits on rows scored before they were learned."
                " Otherwise it is archived and the champion keeps serving; the run fails, and what comes after does not"
                " start, unless a retrain was only not better than the champion.",
            )
        ],
    )
    def served_model(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster refuses a subscript here
        with reported(context, flow):
            registry, store = platform.registry(), platform.store(flow)
            results = []
            for waiting in registry.pending(flow.name):
                version, verdict = settle(flow, store, registry, waiting, tags={"dagster_run_id": context.run.run_id})
                context.log.info("version %s: %s", version.version, verdict)
                results.append(_check(version, verdict))
                if not verdict.accepted:  # the same rows would be refused again: no sensor asks for this run again
                    context.instance.add_run_tags(context.run.run_id, {REFUSED: str(version.version)})
            champion = registry.head(flow.name)
            metadata = {} if champion is None else described(registry, champion)
        return dg.MaterializeResult(metadata=metadata, check_results=results[-1:] or [_nothing_judged()])

    return [full_model, incremental_model, served_model]


def _check(version: ModelVersion, verdict: Verdict) -> dg.AssetCheckResult:
    # that a retrain does not beat the champion is how most nights end; that a version is worse, or broken, is not
    ordinary = verdict.policy in {"superiority", "superseded"}
    return dg.AssetCheckResult(
        check_name="gate",
        passed=verdict.accepted,
        severity=dg.AssetCheckSeverity.WARN if ordinary else dg.AssetCheckSeverity.ERROR,
        metadata={"version": version.version, "verdict": dg.MetadataValue.json(json.loads(verdict.to_json()))},
    )


def _nothing_judged() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name="gate", passed=True, metadata={"verdict": "nothing was waiting to be judged"})


def described(registry: Registry, version: ModelVersion) -> dict[str, dg.MetadataValue | float | int | str]:
    """Describe a version: numbers for the plots over time, its model card, and the link to MLflow."""
    url = registry.run_url(version)
    return {
        "version": version.version,
        "kind": version.kind,
        "parent": str(version.parent),
        "watermark": version.watermark,
        "trained_through": version.trained_through.isoformat(),
        "mlflow_run": dg.MetadataValue.url(url) if url.startswith("http") else url,
        "model_card": dg.MetadataValue.md(card_of(registry, version)),
        **{name: float(value) for name, value in version.metrics.items()},
    }
