"""`make bench-averaging`: what learning side by side costs in log loss, by the rule that merges the shards.

No Spark runs: where shards are learned changes no bit. On the year of flights, whose order is that of time, and on made
rows of strings with long tails in no order. Every rule merges the same groups of shards; the stages are merged by their
own rules throughout. The newest 20,000 rows are scored, then learned, by what came of the rest. Ours and the peers are
set against one learner that takes all rows in order.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.report import Row, bound, write
from flows.flight_delays.load import facts
from ml_core.data.replay import Replay
from ml_core.data.store import FeatureStore
from ml_core.learners.kernels import derive_ftrl
from ml_core.learners.merging import merged_memory
from ml_core.pipeline import PipelineModel
from ml_core.pipeline.merging import merge
from ml_core.project import PipelineSettings, SparkTrainingSettings, load_project
from ml_core.training.evaluation import row_log_loss
from ml_core.training.spark.plan import planned
from ml_core.training.spark.shards import SavedState

_ROOT = Path(__file__).resolve().parent.parent
_HELD = 20_000
_CUTS = ((2, 32_768), (4, 32_768), (8, 32_768), (8, 8_192))

Memory = NDArray[np.float64]
Rule = Callable[[PipelineModel, Memory, Sequence[Memory], Sequence[int]], Memory]


def _rates(model: PipelineModel) -> tuple[float, float, float, float]:
    settings = model.head.settings()
    return settings["alpha"], settings["beta"], settings["l1"], settings["l2"]


def _ours(model: PipelineModel, before: Memory, shards: Sequence[Memory], rows: Sequence[int]) -> Memory:
    del rows
    return merged_memory("ftrl", _rates(model), before, shards)


def _alone(model: PipelineModel, before: Memory, shards: Sequence[Memory], rows: Sequence[int]) -> Memory:
    """Return ours as if each coordinate were alone in its row."""
    del rows
    return _posteriors(model, before, shards, 0.0)


def _aligned(model: PipelineModel, before: Memory, shards: Sequence[Memory], rows: Sequence[int]) -> Memory:
    """Return ours as if all coordinates of a row pulled the same way."""
    del rows
    return _posteriors(model, before, shards, 1.0)


def _posteriors(model: PipelineModel, before: Memory, shards: Sequence[Memory], power: float) -> Memory:
    """Return ours with another power of the entries of a row; weights that stay at zero differ in nothing."""
    alpha, beta, l1, l2 = _rates(model)
    damping = (beta + np.sqrt(before[..., 2])) / alpha + l2
    grown = np.asarray(sum(shard[..., 2] - before[..., 2] for shard in shards))
    factor = (grown.sum(axis=0) / grown[-1]) ** power
    moved = sum(
        (damping + factor * (shard[..., 2] - before[..., 2])) * (shard[..., 0] - before[..., 0]) for shard in shards
    )
    made = merged_memory("ftrl", (alpha, beta, l1, l2), before, shards)
    weights = before[..., 0] + np.asarray(moved) / (damping + factor * grown)
    held = -weights * ((beta + np.sqrt(made[..., 2])) / alpha + l2) - np.sign(weights) * l1
    made[..., 1] = np.where(weights != 0, held, made[..., 1])
    return made


def _by_rows(model: PipelineModel, before: Memory, shards: Sequence[Memory], rows: Sequence[int]) -> Memory:
    """Return the mean of (z, n), weighted by rows: iterative parameter mixing as it was published."""
    del model, before
    return np.asarray(sum(share * shard for share, shard in zip(rows, shards, strict=True)) / sum(rows))


def _by_squares(model: PipelineModel, before: Memory, shards: Sequence[Memory], rows: Sequence[int]) -> Memory:
    """Return the mean of the weights, each by the squared gradients it was shown, which add up."""
    del rows
    alpha, beta, l1, l2 = _rates(model)
    grown = [shard[..., 2] - before[..., 2] for shard in shards]
    total = np.asarray(sum(grown))
    seen = np.where(total > 0, total, 1.0)
    weights = sum(own * shard[..., 0] for own, shard in zip(grown, shards, strict=True)) / seen
    sums = sum(own * shard[..., 1] for own, shard in zip(grown, shards, strict=True)) / seen
    made = before.copy()
    made[..., 2] = before[..., 2] + total
    held = -weights * ((beta + np.sqrt(made[..., 2])) / alpha + l2) - np.sign(weights) * l1
    made[..., 1] = np.where(total > 0, np.where(weights != 0, held, np.clip(sums, -l1, l1)), before[..., 1])
    return made


def _sums(model: PipelineModel, before: Memory, shards: Sequence[Memory], rows: Sequence[int]) -> Memory:
    """Return what (z, n) would be if every shard's changes were added."""
    del model, rows
    return np.asarray(before + sum(shard - before for shard in shards))


_RULES: dict[str, Rule] = {
    "product of posteriors (ours)": _ours,
    "the same, c = 1": _alone,
    "the same, c = entries of a row": _aligned,
    "mean of z and n by rows": _by_rows,
    "mean of w by squared gradients": _by_squares,
    "sum of the changes of z and n": _sums,
}


def rows() -> Iterator[Row]:
    """Yield a row per data set, cut and rule: how much more log loss than in sequence, in percent."""
    for name, settings, schema, table in (_flights(), _long_tails()):
        first = table.num_rows - _HELD
        whole = PipelineModel.build(settings, schema)
        _learn(whole, table, 0, first)
        inline = _learn(whole, table, first, table.num_rows)
        yield bound(f"{name}: log loss in sequence, thousandths", 1_000 * inline, "nats", None)
        for shards, shard_rows in _CUTS:
            plan = SparkTrainingSettings(mode="average", shards=shards, shard_rows=shard_rows)
            for rule, merged in _RULES.items():
                model = _averaged(PipelineModel.build(settings, schema), table.slice(0, first), plan, merged)
                loss = _learn(model, table, first, table.num_rows)
                said = f"{name}: {shards} shards of {shard_rows:,}, {rule}"
                yield bound(said, 100 * (loss / inline - 1), "%", None)


def _averaged(model: PipelineModel, table: pa.Table, settings: SparkTrainingSettings, rule: Rule) -> PipelineModel:
    state = SavedState.of(model)
    for group in planned(settings, 0, table.num_rows, judged=0, alone=1).groups:
        shards = []
        for first, stop in group:
            shards.append(state.load())
            _learn(shards[-1], table, first, stop)
        made = shards[0]
        if len(shards) > 1:
            made = state.load()
            memory = rule(made, _memory(made), [_memory(shard) for shard in shards], [b - a for a, b in group])
            merge(made, shards)
            _memory(made)[:] = memory
            derive_ftrl(_memory(made), _rates(made))
        state = SavedState.of(made)
    return state.load()


def _memory(model: PipelineModel) -> Memory:
    memory: Memory = model.head._state.memory  # type: ignore[attr-defined]  # noqa: SLF001 - the rules are about it
    return memory


def _learn(model: PipelineModel, table: pa.Table, first: int, stop: int) -> float:
    """Learn rows; return the mean log loss of what was said of them before."""
    batches = table.slice(first, stop - first).to_batches(max_chunksize=65_536)
    said = list(model.learn_batches(batches))
    losses = row_log_loss(
        np.concatenate([labels for labels, _ in said]), np.concatenate([scores for _, scores in said])
    )
    return float(losses.mean())


def _flights() -> tuple[str, PipelineSettings, dict[str, str], pa.Table]:
    flow = load_project(_ROOT).flow("flight_delays")
    with tempfile.TemporaryDirectory(prefix="bench-averaging-") as folder:
        store = FeatureStore(flow, root=_ROOT, home=Path(folder, "home"))
        replay = Replay(facts(Path(folder)))
        replay.ingest(store.log, replay.end)
        store.absorb()
        table = pa.Table.from_batches(store.example_batches(0, store.progress().next_example)).combine_chunks()
        return "flights", flow.pipeline, dict(store.schema()), table


def _long_tails() -> tuple[str, PipelineSettings, dict[str, str], pa.Table]:
    """Return 220,000 rows of three strings, 20,000, 3,000 and 50 values by Zipf's law, and a number."""
    draw, count = np.random.default_rng(1), 220_000
    margin, columns = np.full(count, -1.2), {}
    for name, values, power, spread in (("a", 20_000, 1.05, 0.8), ("b", 3_000, 1.0, 0.6), ("c", 50, 0.8, 0.5)):
        shares = 1 / np.arange(1, values + 1) ** power
        chosen = draw.choice(values, count, p=shares / shares.sum())
        margin += draw.normal(0, spread, values)[chosen]
        columns[name] = pa.array(chosen.astype(str))
    number = draw.normal(size=count)
    label = (draw.random(count) < 1 / (1 + np.exp(-margin - 0.4 * number))).astype(np.float32)
    settings = PipelineSettings(
        stages=(
            {"stage": "hash", "columns": ["a", "b", "c"], "bits": 18},
            {"stage": "standardise", "columns": ["x"]},
        ),
        estimator={"name": "FTRLClassifier", "alpha": 0.1, "l1": 0.1, "l2": 0.1},
    )
    schema = {"a": "string", "b": "string", "c": "string", "x": "float"}
    return "long tails", settings, schema, pa.table({"label": label, **columns, "x": number.astype(np.float32)})


if __name__ == "__main__":
    write("averaging", list(rows()))
