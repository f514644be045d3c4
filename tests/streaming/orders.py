"""The flow of orders (see tests/data) as it comes over Kafka, as a project file and as records."""

import tomllib

from ml_core.project import Flow
from ml_core.streaming.records import write_json
from tests.data.conftest import arrived, ordered

PROJECT = """
[flows.{name}.data]
loader = "nowhere:facts"
features = "features.sql"
entity = "ordered"
key = "order_id"
request_time = "asked_at"
label_fact = "arrived"
label = "late"
lookback = "2 days"
label_window = "3 days"
starts = 2024-05-01

[[flows.{name}.pipeline.stages]]
stage = "hash"
columns = ["shop"]
bits = 10
[[flows.{name}.pipeline.stages]]
stage = "standardise"
columns = ["recent_days"]
[flows.{name}.pipeline.estimator]
name = "FTRLClassifier"
l1 = 0.0

[flows.{name}.gate]
min_rows = 50
non_inferiority_margin = 0.5
first_max_normalised_entropy = 2.0
max_calibration_error = 0.9

[flows.{name}.stream]
allowed_lateness = "0 minutes"
[flows.{name}.stream.facts.ordered]
order_id = "string"
shop = "string"
asked_at = "instant"
[flows.{name}.stream.facts.arrived]
order_id = "string"
shop = "string"
days = "integer"
late = "boolean"
"""


def flow_of(name: str) -> Flow:
    """Return the flow under a name of its own."""
    return Flow.model_validate(tomllib.loads(PROJECT.format(name=name))["flows"][name] | {"name": name})


def orders(first: int, stop: int) -> list[bytes]:
    """Return `ordered` records, one a minute."""
    numbers = range(first, stop)
    return write_json(ordered(*((f"o{number:06d}", "abc"[number % 3], number, number - 1) for number in numbers)))


def labels(first: int, stop: int) -> list[bytes]:
    """Return `arrived` records, each half an hour after its order."""
    numbers = range(first, stop)
    days = [number * 7 % 11 for number in numbers]
    rows = zip(numbers, days, strict=True)
    return write_json(arrived(*((f"o{number:06d}", "abc"[number % 3], day, number + 30) for number, day in rows)))
