"""Train on a stored table in a process of its own, and say how many rows, how long, and how much memory it took."""

import json
import sys
import time
from pathlib import Path

from benchmarks.flights import SCHEMA
from benchmarks.train import STAGES, stored
from ml_core.pipeline import PipelineModel
from ml_core.project import PipelineSettings


def main(file: Path, count: int) -> None:
    """Learn the `count` examples of `file` once, keeping no scores."""
    started = time.perf_counter()
    settings = PipelineSettings(stages=STAGES, estimator={"name": "FTRLClassifier"})
    model = PipelineModel.build(settings, SCHEMA)
    rows = sum(labels.size for labels, _ in model.learn_batches(stored(file, count)))
    # not getrusage: its peak begins with that of the process that started this one
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started, "peak_bytes": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
