"""What the sidecars answered, in Dagster: the asset with each version's live figures, its parity check, job and sensor.

Only a flow that names its prediction log has them.
"""

import dagster as dg

from ml_core.project import Flow
from ml_core.training.answers import Answered, Answers, table
from orchestration.assets.names import key, presented
from orchestration.attempts import asked
from orchestration.jobs import FlowJob, job_name
from orchestration.outcomes import reported
from orchestration.resources import Platform

PARITY = "parity"


def answers_asset(flow: Flow) -> dg.AssetsDefinition:
    """Return the asset `live_answers` of a flow."""

    @dg.asset(
        **presented(
            flow,
            "live_answers",
            kinds={"parquet"},
            description="What predictors answered, with the labels that came since: how each version really did.",
        ),
        deps=[key(flow, "features"), key(flow, "served_model")],
        check_specs=[
            dg.AssetCheckSpec(
                PARITY,
                asset=key(flow, "live_answers"),
                description="The newest logged requests, scored again from the registry's packages, give the same"
                " scores. Otherwise callers were answered by something else than what is published.",
            )
        ],
    )
    def live_answers(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster refuses a subscript here
        with reported(context, flow):
            registry = platform.registry()
            found, parity = Answers(flow, platform.store(flow)).look(registry)
            head = registry.head(flow.name)
        served = [each for each in found if head is not None and (each.version, each.role) == (head.version, "served")]
        check = dg.AssetCheckResult(
            check_name=PARITY,
            passed=not parity.mismatched,
            metadata={
                "rows": parity.rows,
                "mismatched": parity.mismatched,
                "mismatch_rate": parity.mismatch_rate,
                "reasons": list(parity.reasons),
            },
        )
        metadata: dict[str, dg.MetadataValue | float | int] = {
            "versions": dg.MetadataValue.md(_markdown(found)),
            "mismatch_rate": parity.mismatch_rate,
        }
        for each in served:
            metadata |= {"version": each.version, "rows": each.rows, "labelled": each.labelled}
            metadata |= {f"live_{name}": value for name, value in each.figures.items() if name != "rows"}
        return dg.MaterializeResult(metadata=metadata, check_results=[check])

    made: dg.AssetsDefinition = live_answers
    return made


def answers_job(flow: Flow) -> FlowJob:
    """Return the job that joins the answers with their labels."""
    return dg.define_asset_job(
        job_name(flow, "answers"),
        selection=dg.AssetSelection.assets(key(flow, "live_answers")),
        executor_def=dg.in_process_executor,
        tags={"modelflow/flow": flow.name},
        description="Joins what predictors answered with the labels that came since, and scores some of it again.",
    )


def answers_sensor(flow: Flow, job: FlowJob) -> dg.SensorDefinition:
    """Return the sensor that has the answers looked at when predictors have logged some and labels have come."""

    @dg.sensor(
        name=f"{flow.name}_answers",
        job=job,
        minimum_interval_seconds=300,  # predictors write a file every few seconds
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the answers joined with their labels when predictors have logged more, or labels have come.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
        store = platform.store(flow)
        files = Answers(flow, store).files()
        if not files:
            return dg.SkipReason(f"{flow.name}: predictors have logged nothing yet into {flow.serving.prediction_log}")
        labelled = store.progress().next_example
        why = f"{flow.name}: answers are logged up to {files[-1].name}, {labelled} labels have come"
        return asked(context.instance, job.name, now=platform.now(), target=f"{files[-1].stem}:{labelled}", why=why)

    return sensor


def _markdown(found: list[Answered]) -> str:
    rows = list(table(found))
    if not rows:
        return "nothing was logged yet"
    head = list(dict.fromkeys(name for row in rows for name in row))
    lines = [head, ["---"] * len(head), *([_text(row.get(name, "")) for name in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
