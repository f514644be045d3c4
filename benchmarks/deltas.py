"""What a model topic carries each second, beside sending the whole model: 2**20 slots, flights, several rates.

Twice: by the eleven columns alone, which leave nearly all slots empty, so that a whole model is small when it is
compressed; and with every cross of two columns, which fill a good part of them.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

import numpy as np

from benchmarks.flights import NUMBERS, SCHEMA, STRINGS, wide_flights
from benchmarks.report import Row, bound
from ml_core.flow.topic import ModelWriter, take_apart
from ml_core.pipeline import PipelineModel
from ml_core.project import LearnSettings, PipelineSettings

RATES: Final = (100, 1_000, 5_000, 20_000)
STATED: Final = 1_000
SNAPSHOT_EVERY: Final[int] = LearnSettings.model_fields["snapshot_every"].default
ALONE: Final = (
    {"stage": "hash", "columns": list(STRINGS), "bits": 20},
    {"stage": "standardise", "columns": list(NUMBERS)},
)
CROSSED: Final = (*ALONE, {"stage": "cross", "pairs": [list(pair) for pair in combinations(STRINGS, 2)], "bits": 20})
_TRAINED: Final = 200_000
_SECONDS: Final = 5


def rows() -> Iterator[Row]:
    """Yield, per rate of examples, the bytes of publications beside those of a snapshot each second."""
    flights = wide_flights()
    labels = flights["late"].to_numpy().astype(float)
    for title, stages in (("columns alone", ALONE), ("with crosses", CROSSED)):
        known = PipelineModel.build(PipelineSettings(stages=stages, estimator={"name": "FTRLClassifier"}), SCHEMA)
        known.learn(flights.slice(0, _TRAINED), labels[:_TRAINED])
        _, parameters = take_apart(known.to_onnx())
        used = sum(int(np.count_nonzero(array)) for array in parameters.values())
        yield bound(f"weights of flights, {title}, that are not 0", used, "", None)
        at = _TRAINED
        for rate in RATES:
            changes, whole = _sizes(known, flights, labels, at, rate)
            at += rate * _SECONDS
            mixed = (changes * (SNAPSHOT_EVERY - 1) + whole) / SNAPSHOT_EVERY
            name = f"{title}, model topic at {rate:,} examples/s: bytes beside snapshots, in %"
            yield bound(name, 100 * mixed / whole, "%", 10.0 if rate == STATED else None)
            yield bound("the same, beside the weights as they lie in memory", 100 * mixed / (8 << 20), "%", None)


def _sizes(known: PipelineModel, flights: Any, labels: np.ndarray[Any, Any], at: int, rate: int) -> tuple[float, float]:
    """Return the bytes of a publication of what changed, the mean of some seconds, and of a whole one."""
    writer, sizes = ModelWriter(SNAPSHOT_EVERY), []

    def written(*, whole: bool = False) -> int:
        chunks = writer.write(known.to_onnx(), described={}, golden_scores=[], whole=whole)
        return sum(len(chunk.value) for chunk in chunks)

    written()
    for first in range(at, at + rate * _SECONDS, rate):
        known.learn(flights.slice(first, rate), labels[first : first + rate])
        sizes.append(written())
    return sum(sizes) / _SECONDS, written(whole=True)
