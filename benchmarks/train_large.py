"""Train on a stored table in a process of its own, and say how many rows, how long, and how much memory it took."""

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.flights import SCHEMA
from benchmarks.train import STAGES, stored
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings


def main(file: Path) -> None:
    """Learn every example of `file` once, keeping no scores."""
    started = time.perf_counter()
    settings = PipelineSettings(stages=STAGES, estimator={"name": "FTRLClassifier"})
    model = PipelineModel.build(settings, SCHEMA)
    rows = sum(labels.size for labels, _ in model.learn_batches(stored(file)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started, "peak_bytes": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
