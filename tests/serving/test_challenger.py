"""A second version beside the served one: it scores in the shadow, or answers the same keys every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.errors import ProjectError
from ml_core.flow.read import ModelAddress
from serving.challenger import Challenger
from serving.follower import Follower
from serving.following import FollowerSettings
from serving.http import Sidecar
from serving.log import LogSettings, PredictionLog
from serving.settings import ChallengerSettings, Settings
from serving.sidecar import run
from tests.serving.asking import OTHER, ROW, ask_application
from tests.serving.conftest import FolderRegistry

Beside = Callable[..., Challenger]


@pytest.fixture
def beside(registry: FolderRegistry) -> Beside:
    """Return a maker of challengers: version 9 of the registry's folder."""
    registry.add(9)

    def make(**shares: float) -> Challenger:
        other = FolderRegistry(registry.root, production=9, refs=registry.refs)
        settings = FollowerSettings(accept_new_signature=True)
        follower = Follower(ModelAddress("f", stage="Staging"), "", settings=settings, registry=other)
        follower.step()
        return Challenger(follower, **shares)

    return make


def logged(folder: Path) -> list[dict[str, Any]]:
    table = pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("*.parquet")))
    return table.sort_by([("role", "ascending"), ("row", "ascending")]).to_pylist()


def test_a_shadow_scores_the_same_rows_and_answers_nobody(follower: Follower, beside: Beside, tmp_path: Path) -> None:
    """Callers see the served version alone; the log holds what both said, to be held against the labels."""
    challenger = beside(shadow_share=1.0)
    application = Sidecar(
        follower, log=PredictionLog(LogSettings(tmp_path, share=0.0), challenger=challenger), challenger=challenger
    )
    body = {"dataframe_records": [{**ROW, "key": "a"}, {**OTHER, "key": 12}]}
    _, headers, answer = ask_application(application, "/invocations", body)
    application.close()
    assert headers["x-model-version"] == "7"
    rows = logged(tmp_path)
    assert [(row["role"], row["version"], row["row"], row["key"]) for row in rows] == [
        ("served", 7, 0, "a"), ("served", 7, 1, "12"), ("shadow", 9, 0, "a"), ("shadow", 9, 1, "12"),
    ]  # fmt: skip
    assert [row["score"] for row in rows[:2]] == answer["predictions"]
    assert [round(row["score"], 2) for row in rows[2:]] == [0.09, 0.09]
    assert {row["request_id"] for row in rows} == {headers["x-request-id"]}
    assert len({row["at"] for row in rows}) == 1


def test_a_shadow_that_fails_in_any_way_leaves_the_log_of_the_served_version_whole(
    follower: Follower, beside: Beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes must outlive whatever a second version does."""

    def broken(*_: Any) -> None:
        raise RuntimeError("an operator of the second version failed")

    monkeypatch.setattr("serving.log.scored_by", broken)
    challenger = beside(shadow_share=1.0)
    log = PredictionLog(LogSettings(tmp_path), challenger=challenger)
    application = Sidecar(follower, log=log, challenger=challenger)
    for _ in range(2):
        assert ask_application(application, "/invocations", {"dataframe_records": [ROW]})[0] == 200
        log._write_waiting()
    application.close()
    assert (log.written, log.dropped) == (2, 2)
    assert {row["role"] for row in logged(tmp_path)} == {"served"}


def test_keys_that_are_not_one_a_row_cost_the_keys_and_nobody_elses_rows(follower: Follower, tmp_path: Path) -> None:
    application = Sidecar(follower, log=PredictionLog(LogSettings(tmp_path)))
    columns = {name: [ROW[name], OTHER[name]] for name in ROW}
    for keys in (["a", "b"], ["a"], []):
        assert ask_application(application, "/invocations", {"inputs": {**columns, "key": keys}})[0] in {200, 400}
    assert ask_application(application, "/invocations", {"dataframe_records": [{**ROW, "key": "c"}]})[0] == 200
    application.close()
    assert {"a", "b", "c"} <= {row["key"] for row in logged(tmp_path)}


def test_a_canary_answers_the_same_keys_every_time(follower: Follower, beside: Beside, tmp_path: Path) -> None:
    """A caller who went from one version to the other and back with every request would see neither."""
    challenger = beside(canary_share=0.3)
    application = Sidecar(follower, log=PredictionLog(LogSettings(tmp_path)), challenger=challenger)

    def version(**headers: str) -> str:
        told = {"content-type": "application/json"} | headers
        return ask_application(application, "/invocations", {"dataframe_records": [ROW]}, headers=told)[1][
            "x-model-version"
        ]

    keys = [f"user {number}" for number in range(200)]
    first = {key: version(**{"x-canary-key": key}) for key in keys}
    assert first == {key: version(**{"x-canary-key": key}) for key in reversed(keys)}
    assert 40 <= sum(answered == "9" for answered in first.values()) <= 80
    assert {version() for _ in range(20)} == {"7"}
    told = {"content-type": "application/json", "x-canary-key": next(key for key in keys if first[key] == "9")}
    status, headers, _ = ask_application(application, "/v2/models/f/versions/7/infer", inference(ROW), headers=told)
    assert (status, headers["x-model-version"]) == (200, "7"), "who asks for a version by number gets it"
    application.close()
    roles = {(row["role"], row["version"]) for row in logged(tmp_path)}
    assert roles == {("served", 7), ("canary", 9)}


def inference(row: dict[str, Any]) -> dict[str, Any]:
    kinds = {name: "BYTES" if isinstance(value, str) else "FP32" for name, value in row.items()}
    return {"inputs": [{"name": n, "datatype": kinds[n], "shape": [1], "data": [v]} for n, v in row.items()]}


def test_there_is_no_challenger_where_its_address_is_empty_or_is_the_served_version(
    follower: Follower, beside: Beside
) -> None:
    """Once it is promoted or archived, nobody is answered by it any more."""
    challenger = beside(canary_share=1.0)
    served = follower.current
    assert served is not None
    assert challenger.canary(served, b"k") is challenger.follower.current
    assert challenger.canary(served, None) is None
    other: Any = challenger.follower._registry
    other.promote(None)
    challenger.follower.step()
    assert challenger.follower.current is not None
    assert challenger.canary(served, b"k") is None
    other.promote(7)
    challenger.follower.step()
    assert challenger.canary(served, b"k") is None
    other.promote(9)
    challenger.follower.step()
    assert challenger.canary(served, b"k") is not None
    application = Sidecar(follower, challenger=challenger)
    status = ask_application(application, "/status")[2]
    assert status["challenger"]["serving"]["version"] == 9
    assert "modelflow_challenger_version 9.0" in ask_application(application, "/metrics")[2].decode()


def test_a_challenger_that_needs_other_columns_answers_nobody(
    follower: Follower, beside: Beside, registry: FolderRegistry
) -> None:
    """Callers send what the served version takes; they must not be refused by one they did not ask for."""
    challenger = beside(canary_share=1.0)
    registry.add(11, signature={"carrier": "string", "wind": "float"})
    other: Any = challenger.follower._registry
    other.promote(11)
    challenger.follower.step()
    assert challenger.follower.current is not None
    assert challenger.follower.current.version == 11
    assert follower.current is not None
    assert challenger.beside(follower.current) is None


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (ChallengerSettings("models:/g/Staging", shadow_share=0.1), "a challenger of the flow f, found one of g"),
        (ChallengerSettings("models:/f/Staging"), "--shadow-share or --canary-share"),
        (ChallengerSettings("models:/f/Staging", canary_share=7.0), "between 0 and 1"),
        (ChallengerSettings("models:/f/Staging", shadow_share=0.1), "--log with --shadow-share"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_the_start(told: ChallengerSettings, reason: str) -> None:
    with pytest.raises(ProjectError, match=reason):
        run(Settings("models:/f/Production", "http://127.0.0.1:9", port=0, challenger=told))
