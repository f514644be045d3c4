"""What a model topic carries each second, beside sending the whole model: 2**20 slots, flights, several rates."""

from collections.abc import Iterator
from typing import Final

from benchmarks.flights import NUMBERS, SCHEMA, STRINGS, wide_flights
from benchmarks.report import Row, bound
from ml_core.flow.topic import ModelWriter
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings

RATES: Final = (100, 1_000, 5_000, 20_000)
STATED: Final = 1_000
SNAPSHOT_EVERY: Final = 60
STAGES: Final = (
    {"stage": "hash", "columns": list(STRINGS), "bits": 20},
    {"stage": "standardise", "columns": list(NUMBERS)},
)
_TRAINED: Final = 200_000
_SECONDS: Final = 5


def rows() -> Iterator[Row]:
    """Yield, per rate of examples, the bytes of a minute of publications beside those of a snapshot each second."""
    flights = wide_flights()
    known = PipelineModel.build(PipelineSettings(stages=STAGES, estimator={"name": "FTRLClassifier"}), SCHEMA)
    labels = flights["late"].to_numpy().astype(float)
    known.learn(flights.slice(0, _TRAINED), labels[:_TRAINED])
    for rate in RATES:
        writer, at, sizes = ModelWriter(SNAPSHOT_EVERY), _TRAINED, []
        writer.write(known.to_onnx(), described={}, golden_scores=[])
        for _ in range(_SECONDS):
            known.learn(flights.slice(at, rate), labels[at : at + rate])
            at += rate
            sizes.append(
                sum(len(chunk.value) for chunk in writer.write(known.to_onnx(), described={}, golden_scores=[]))
            )
        whole = sum(
            len(chunk.value) for chunk in writer.write(known.to_onnx(), described={}, golden_scores=[], whole=True)
        )
        mixed = (sum(sizes) / _SECONDS * (SNAPSHOT_EVERY - 1) + whole) / SNAPSHOT_EVERY
        name = f"model topic at {rate:,} examples/s: bytes beside a snapshot each second, in %"
        yield bound(name, 100 * mixed / whole, "%", 10.0 if rate == STATED else None)
        yield bound("the same, beside the weights as they lie in memory", 100 * mixed / (8 << 20), "%", None)
