"""The sidecar's answers: protocols, limits, and a client's mistakes, none of which is ever a 5xx."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core import errors
from serving import wire
from serving.follower import Follower
from serving.http import Sidecar
from serving.settings import Limits
from tests.serving.asking import OTHER, ROW, Ask, ask_application, scores_of


@pytest.fixture
def ask(follower: Follower) -> Ask:
    application = Sidecar(follower)
    return lambda *arguments, **options: ask_application(application, *arguments, **options)


# ---- MLflow's scoring protocol


def bodies(*rows: dict[str, Any]) -> dict[str, Any]:
    names = list(reversed(ROW))
    columns = {name: [row[name] for row in rows] for name in names}
    return {
        "dataframe_split": {"columns": names, "index": [5] * len(rows), "data": [[r[n] for n in names] for r in rows]},
        "dataframe_records": list(rows),
        "instances": list(rows),
        "inputs": columns,
    }


@pytest.mark.parametrize("shape", list(bodies()))
@pytest.mark.parametrize("rows", [[ROW], [ROW, OTHER], [OTHER] * 50])
def test_every_shape_of_mlflows_bodies_gets_the_same_scores(
    ask: Ask, follower: Follower, shape: str, rows: list[dict[str, Any]]
) -> None:
    """Clients of `mlflow models serve` choose among four shapes and expect one answer."""
    status, headers, answer = ask("/invocations", {shape: bodies(*rows)[shape]})
    assert (status, headers["x-model-version"]) == (200, "7")
    assert answer == {"predictions": scores_of(follower, *rows)}


def test_one_row_may_come_as_inputs_without_lists(ask: Ask, follower: Follower) -> None:
    """MLflow takes a single row as plain values."""
    assert ask("/invocations", {"inputs": ROW})[2]["predictions"] == scores_of(follower, ROW)


def test_no_rows_get_no_scores(ask: Ask) -> None:
    """An empty batch at the end of a loop is no mistake."""
    for body in ({"dataframe_records": []}, {"dataframe_split": {"columns": list(ROW), "data": []}}):
        assert ask("/invocations", body)[::2] == (200, {"predictions": []})


def test_nan_as_python_writes_it_is_a_missing_number(ask: Ask, follower: Follower) -> None:
    """MLflow's own client sends NaN literals, which JSON does not have."""
    body = json.dumps({"dataframe_records": [{**ROW, "delay": float("nan")}]}).encode()
    assert b"NaN" in body
    assert ask("/invocations", body)[2]["predictions"] == scores_of(follower, {**ROW, "delay": None})


def split(**changes: Any) -> dict[str, Any]:
    row = {**ROW, **changes}
    return {"dataframe_split": {"columns": list(row), "data": [list(ROW.values()), list(row.values())]}}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b'{"inputs": "\xff"}', "expected JSON"),
        (b'{"inputs": ["\\ud800"]}', "expected JSON"),
        (b'{"inputs": {"carrier": "\\ud800", "delay": NaN}}', "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"inputs": NaN, "x":' + b"[" * 100_000, "expected JSON"),
        (b'{"inputs": {"delay": Infinity}}', "finite numbers"),
        (b"[1]", "expected a JSON object, found a list"),
        (b"NaN", "expected a JSON object, found null"),
        ({}, "exactly one of"),
        ({"inputs": ROW, "instances": [ROW]}, "found inputs and instances"),
        ({"instances": [[1, 2]]}, "list of objects"),
        ({"dataframe_records": ROW}, "list of objects"),
        ({"inputs": {**ROW, "delay": [1]}}, "expected a list of values"),
        ({"dataframe_split": [1]}, "lists `columns` and `data`"),
        ({"dataframe_split": {"columns": list(ROW), "data": [7]}}, "row 0: expected a list of values, found a number"),
        ({"dataframe_split": {"columns": [["a"]], "data": [[1]]}}, "to be strings"),
        (split(delay="12.5"), "row 1, column 'delay': expected a number or null, found str '12.5'"),
        (split(carrier=7), "row 1, column 'carrier': expected a string"),
        (split(delay=True), "row 1, column 'delay': expected a number or null, found True"),
        (split(delay=2**60), "send identifiers as strings"),
        (split(delay=1e300), "float32"),
        ({"dataframe_records": [ROW, {"carrier": "UA"}]}, "row 1, column 'origin' is missing"),
    ],
)
def test_a_clients_mistake_is_a_400_that_names_it(ask: Ask, body: Any, told: str) -> None:
    """A caller has to learn from the answer what to change; our log is out of its reach."""
    status, _, answer = ask("/invocations", body)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert told in answer["message"]
    assert len(answer["message"]) <= 500


def test_the_place_of_a_mistake_is_told_in_fields_too(ask: Ask) -> None:
    """A program that repairs batches should not parse sentences."""
    answer = ask("/invocations", split(delay="x"))[2]
    assert (answer["column"], answer["row"]) == ("delay", 1)


def test_the_rule_for_large_integers_ends_with_64_bits(ask: Ask, follower: Follower) -> None:
    """JSON's reader gives larger ones as floats; the documentation says so."""
    for integer, status in ((2**53, 200), (2**53 + 1, 400), (2**64 - 1, 400), (2**64, 200), (-(2**63), 400)):
        body = json.dumps({"dataframe_records": [ROW]}).replace("12.5", str(integer)).encode()
        assert ask("/invocations", body)[0] == status
    body = json.dumps({"dataframe_records": [ROW]}).replace("12.5", str(2**64)).encode()
    assert ask("/invocations", body)[2]["predictions"] == scores_of(follower, {**ROW, "delay": float(2**64)})


def test_a_score_is_never_nan_even_where_the_numbers_are_absurd(ask: Ask) -> None:
    """A NaN would pass for a probability somewhere down the line."""
    status, _, answer = ask("/invocations", split(delay=3e38, hour=-3e38))
    assert status == 200
    assert all(0 <= score <= 1 for score in answer["predictions"])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "x", "name"]), inner, max_size=5)
    ),
    max_leaves=12,
)
_SHAPES = st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances", "columns", "data", "params"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_SHAPES, _JSON, max_size=3) | st.binary(max_size=60))
def test_no_body_whatsoever_is_a_5xx(follower: Follower, body: Any) -> None:
    """Whoever can send a body must not be able to wake somebody at night."""
    for path in ("/invocations", "/v2/models/f/infer"):
        assert ask_application(Sidecar(follower), path, body)[0] in {200, 400}


# ---- Open Inference Protocol


def tensors(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    kinds = {"carrier": "BYTES", "origin": "BYTES", "delay": "FP32", "hour": "INT64"}
    inputs = [
        {"name": name, "datatype": kinds[name], "shape": [len(rows)], "data": [row[name] for row in rows]}
        for name in ROW
    ]
    return {"inputs": inputs, **more}


@pytest.mark.parametrize("path", ["/v2/models/f/infer", "/v2/models/f/versions/7/infer"])
def test_tensors_get_the_scores_that_rows_get(ask: Ask, follower: Follower, path: str) -> None:
    """One data plane under every protocol."""
    status, headers, answer = ask(path, tensors(ROW, OTHER, id="42"))
    assert (status, headers["x-model-version"]) == (200, "7")
    assert answer == {
        "model_name": "f",
        "model_version": "7",
        "id": "42",
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [2], "data": scores_of(follower, ROW, OTHER)}],
    }


@pytest.mark.parametrize("inline_bytes", [0, 100_000])
def test_a_version_asked_for_by_number_answers_though_another_is_swapped_in(
    follower: Follower, registry: Any, inline_bytes: int
) -> None:
    """Whoever names a version compares its answers with others'; one of the next version would pass for it."""
    registry.add(8)
    body = json.dumps(tensors(ROW)).encode()
    sent: list[dict[str, Any]] = []

    async def arriving() -> dict[str, Any]:
        if follower.current is not None and follower.current.version == 7:
            registry.promote(8)
            follower.step()
            return {"type": "http.request", "body": body[:10], "more_body": True}
        return {"type": "http.request", "body": body[10:], "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    application = Sidecar(follower, limits=Limits(inline_bytes=inline_bytes))
    scope = {"type": "http", "method": "POST", "path": "/v2/models/f/versions/7/infer", "headers": []}
    asyncio.run(application(scope, arriving, send))
    assert follower.current is not None
    assert follower.current.version == 8
    assert dict(sent[0]["headers"])[b"x-model-version"] == b"7"
    answer = json.loads(sent[1]["body"])
    assert answer["model_version"] == "7"
    assert 0.07 <= answer["outputs"][0]["data"][0] < 0.0701


def test_a_column_of_shape_n_by_1_is_taken(ask: Ask, follower: Follower) -> None:
    """MLflow and scikit-learn clients like their columns two-dimensional."""
    request = tensors(ROW, OTHER)
    for tensor in request["inputs"]:
        tensor |= {"shape": [2, 1], "data": [[value] for value in tensor["data"]]}
    assert ask("/v2/models/f/infer", request)[2]["outputs"][0]["data"] == scores_of(follower, ROW, OTHER)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "binary"}, "or its binary_data_size"),
        ({"shape": [3]}, "expected shape [1]"),
        ({"datatype": "FP32"}, "expected datatype BYTES"),
        ({"datatype": "WHAT"}, "expected datatype BYTES or a number"),
        ({"name": None}, "a name of its own"),
        ({"name": "delay", "datatype": "FP32", "data": [1.0]}, "a name of its own"),
        ({"name": "x"}, "'carrier' is missing"),
        ({"data": [12]}, "row 0, column 'carrier'"),
    ],
)
def test_a_tensor_that_does_not_fit_is_a_400(ask: Ask, change: dict[str, Any], told: str) -> None:
    """The protocol's clients read `error`."""
    request = tensors(ROW)
    request["inputs"][0] |= change
    status, _, answer = ask("/v2/models/f/infer", request)
    assert status == 400
    assert told in answer["error"]


def test_metadata_says_what_to_send(ask: Ask) -> None:
    """Generic clients build their requests from it."""
    status, _, answer = ask("/v2/models/f")
    assert status == 200
    assert answer["inputs"][0] == {"name": "carrier", "datatype": "BYTES", "shape": [-1]}
    assert answer["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]
    assert ask("/v2/models/f/versions/7")[2] == answer
    assert ask("/v2")[2]["name"] == "modelflow"


# ---- paths, methods, limits


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/nowhere", {}, 404),
        ("/v2/models/other/infer", {"body": {}}, 404),
        ("/v2/models/f/versions/6/infer", {"body": {}}, 404),
        ("/invocations", {}, 405),
        ("/ping", {"body": {}}, 405),
        ("/ping", {"method": "HEAD"}, 200),
        ("/invocations", {"body": b"a,b", "headers": {"content-type": "text/csv"}}, 415),
        ("/invocations", {"body": {"inputs": ROW}, "headers": {}}, 200),
        (
            "/invocations",
            {"body": {"inputs": ROW}, "headers": {"content-type": "application/json; charset=utf-8"}},
            200,
        ),
    ],
)
def test_paths_methods_and_media_types(ask: Ask, path: str, options: dict[str, Any], status: int) -> None:
    """A wrong address must be told apart from a wrong body."""
    assert ask(path, **options)[0] == status


def test_limits_answer_with_their_own_statuses(follower: Follower) -> None:
    """A client can only slow down or split its batches if it is told which of the two is needed."""
    application = Sidecar(follower, limits=Limits(body_bytes=500, rows=3, deadline_s=0.05))
    announced = {"content-type": "application/json", "content-length": "10000000000"}
    assert ask_application(application, "/invocations", b"{}", headers=announced)[0] == 413
    status, headers, _ = ask_application(application, "/invocations", b"{}", headers={}, chunks=[b"x" * 200] * 3)
    assert (status, headers["connection"]) == (413, "close")
    names = {"columns": list(ROW), "data": [[None] * 4] * 4}
    assert ask_application(application, "/invocations", {"dataframe_split": names})[0] == 413
    assert ask_application(application, "/invocations", {"inputs": {name: [None] * 4 for name in ROW}})[0] == 413
    late = ask_application(_Late(application), "/invocations", b"{}")
    assert (late[0], late[1]["connection"]) == (408, "close")
    full = Sidecar(follower, limits=Limits(in_flight=0))
    status, headers, answer = ask_application(full, "/invocations", {"inputs": ROW})
    assert (status, headers["retry-after"], answer["error_code"]) == (429, "1", "OVERLOADED")


class _Late:
    """An application whose callers never finish their bodies."""

    def __init__(self, application: Sidecar) -> None:
        self.application = application

    async def __call__(self, scope: Any, _: Any, send: Any) -> None:
        first = True

        async def receive() -> dict[str, Any]:
            nonlocal first
            if not first:
                await asyncio.sleep(60)
            first = False
            return {"type": "http.request", "body": b"{", "more_body": True}

        await self.application(scope, receive, send)


def test_a_caller_that_went_away_is_not_answered(follower: Follower) -> None:
    """Its half body must not be scored."""
    sent = []

    async def run() -> None:
        async def gone() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        application = Sidecar(follower)
        await application({"type": "http", "method": "POST", "path": "/invocations", "headers": []}, gone, send)
        assert application.telemetry.in_flight == 0

    asyncio.run(run())
    assert sent == []


def test_a_large_body_is_scored_in_a_thread_with_the_same_answer(follower: Follower) -> None:
    """Ten thousand rows must not make a single row wait."""
    body = {"dataframe_records": [ROW, OTHER]}
    inline = ask_application(Sidecar(follower), "/invocations", body)
    threaded = ask_application(Sidecar(follower, limits=Limits(inline_bytes=0)), "/invocations", body)
    assert threaded == inline
    refused = ask_application(Sidecar(follower, limits=Limits(inline_bytes=0)), "/invocations", {"inputs": 1})
    assert refused[0] == 400


# ---- what it tells about itself


def leaves(kind: type[errors.ModelFlowError]) -> set[type[errors.ModelFlowError]]:
    below = kind.__subclasses__()
    return {kind} if not below else set().union(*map(leaves, below))


def test_every_leaf_of_the_error_tree_has_a_status() -> None:
    """An error without one would be answered by accident."""
    assert leaves(errors.ModelFlowError) - set(wire.STATUS) == set()


def test_internals_are_not_told_to_callers() -> None:
    """Paths and addresses are for the log."""
    body = json.loads(wire.error_body(errors.PackageError("/srv/secret/model.onnx is broken")))
    assert "secret" not in str(body)
    assert json.loads(wire.error_body(RuntimeError("secret")))["error_code"] == "INTERNAL_ERROR"


def test_a_fault_of_ours_is_a_500_that_is_counted_and_logged(
    follower: Follower, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one who is woken finds the trace; the caller finds nothing."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(wire, "read_json", broken)
    application = Sidecar(follower)
    status, _, answer = ask_application(application, "/invocations", {"inputs": ROW})
    assert status == 500
    assert "secret" not in answer["message"]
    assert "secret" in caplog.text
    assert application.telemetry.errors["INTERNAL_ERROR"] == 1


def test_status_tells_what_is_served_and_what_failed(ask: Ask, follower: Follower, registry: Any) -> None:
    """The first page somebody opens when a version does not arrive."""
    registry.add(8)
    registry.downloading = lambda _, package: (package / "model.onnx").unlink()
    registry.promote(8)
    follower.step()
    status = ask("/status")[2]
    assert (status["ready"], status["serving"]["version"], status["state"]) == (True, 7, "idle")
    (entry,) = status["quarantine"]
    assert (entry["version"], entry["failures"]) == (8, 1)
    assert "model.onnx" in entry["reason"]
    assert 0 < entry["retry_in_s"] <= 1
    assert status["history"][0]["version"] == 7


def test_metrics_count_requests_errors_rows_and_the_flow(follower: Follower) -> None:
    """What dashboards and alerts are made of."""
    application = Sidecar(follower)
    ask_application(application, "/invocations", {"dataframe_records": [ROW, OTHER]})
    ask_application(application, "/invocations", b"nonsense")
    ask_application(application, "/wp-login.php")
    text = ask_application(application, "/metrics")[2].decode().splitlines()
    for line in (
        'modelflow_requests_total{path="/invocations",status="200"} 1.0',
        'modelflow_requests_total{path="/invocations",status="400"} 1.0',
        'modelflow_requests_total{path="other",status="404"} 1.0',
        'modelflow_errors_total{code="BAD_REQUEST"} 1.0',
        "modelflow_rows_total 2.0",
        'modelflow_phase_seconds_count{phase="score"} 1.0',
        "modelflow_ready 1.0",
        "modelflow_version 7.0",
        "modelflow_trained_through_seconds 1.3779936e+09",
        "modelflow_swaps_total 1.0",
        "modelflow_quarantined 0.0",
        "modelflow_registry_up 1.0",
        "modelflow_requests_in_flight 0.0",
    ):
        assert line in text, line


def test_age_is_told_and_limits_readiness_where_a_limit_is_set(registry: Any) -> None:
    """A model that nobody refreshes any more looks well by every other sign."""
    from datetime import UTC, datetime, timedelta

    from ml_core.clock import ManualClock
    from ml_core.flow.read import ModelAddress
    from serving.following import FollowerSettings

    registry.add(7)
    registry.promote(7)
    clock = ManualClock(datetime(2013, 9, 1, tzinfo=UTC) + timedelta(seconds=30))
    settings = FollowerSettings(max_staleness_s=100)
    follower = Follower(
        ModelAddress.parse("models:/f/Production"), "folder", registry=registry, settings=settings, clock=clock
    )
    follower.load_first()
    application = Sidecar(follower)
    clock.advance(timedelta(seconds=60))
    text = ask_application(application, "/metrics")[2].decode().splitlines()
    assert "modelflow_staleness_seconds 90.0" in text
    assert "modelflow_freshness_seconds 30.0" in text
    assert ask_application(application, "/ping")[0] == 200
    clock.advance(timedelta(seconds=11))
    assert ask_application(application, "/ping")[0] == 503
    assert ask_application(application, "/status")[2]["staleness_s"] == 101
    assert ask_application(application, "/invocations", {"inputs": ROW})[0] == 200


def test_the_access_log_is_json_and_holds_no_rows(follower: Follower, caplog: pytest.LogCaptureFixture) -> None:
    """Logs are kept longer and read by more people than requests."""
    caplog.set_level("INFO", "modelflow.access")
    ask_application(Sidecar(follower, access_log=True), "/invocations", {"inputs": ROW})
    line = json.loads(caplog.records[-1].message)
    assert (line["path"], line["status"], line["version"]) == ("/invocations", 200, "7")
    assert "EWR" not in caplog.text


# ---- tensors in binary form


def binary(*rows: dict[str, Any], asked: dict[str, Any] | None = None) -> tuple[bytes, dict[str, str]]:
    """Return a request whose strings and float32 columns follow its JSON, with its headers."""
    import numpy as np

    request, tail = tensors(*rows), b""
    for tensor in request["inputs"]:
        values = tensor.pop("data")
        if tensor["datatype"] == "BYTES":
            texts = [(value or "").encode() for value in values]
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            raw = np.array(values, {"FP32": "<f4", "INT64": "<i8"}[tensor["datatype"]]).tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        tail += raw
    content = json.dumps({**request, **(asked or {})}).encode()
    headers = {"inference-header-content-length": str(len(content)), "content-type": "application/octet-stream"}
    return content + tail, headers


def test_binary_tensors_get_the_same_scores_as_text(ask: Ask, follower: Follower) -> None:
    """Clients in compiled languages send numbers as they hold them."""
    body, headers = binary(ROW, OTHER)
    status, _, answer = ask("/v2/models/f/infer", body, headers=headers)
    assert status == 200
    assert answer["outputs"][0]["data"] == scores_of(follower, ROW, OTHER)


@pytest.mark.parametrize(
    "asked",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
    ],
)
def test_scores_come_in_binary_form_where_they_are_asked_for(
    ask: Ask, follower: Follower, asked: dict[str, Any]
) -> None:
    """Both ways in which the protocol's clients ask."""
    import numpy as np

    body, headers = binary(ROW, OTHER, asked=asked)
    status, told, answer = ask("/v2/models/f/infer", body, headers=headers)
    length = int(told["inference-header-content-length"])
    described = json.loads(answer[:length])["outputs"][0]
    assert (status, described["parameters"], described.get("data")) == (200, {"binary_data_size": 8}, None)
    assert np.frombuffer(answer[length:], "<f4").tolist() == scores_of(follower, ROW, OTHER)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"binary_data_size": 8', b'"binary_data_size": 9', "binary_data_size bytes after the JSON"),
        (b'"binary_data_size": 4', b'"binary_data_size":-4', "binary_data_size bytes after the JSON"),
        (b'"binary_data_size": 8', b'"binary_data_size": 6', "whole numbers of 8 bytes"),
        (b'"binary_data_size": 7', b'"binary_data_size": 5', "end before their lengths"),
        (b'"shape": [1]', b'"shape": [2]', "expected shape [1]"),
        (b'"FP32"', b'"FP31"', "expected datatype"),
        (b"\x03\x00\x00\x00EWR", b"\x03\x00\x00\x00\xffWR", "UTF-8"),
    ],
)
def test_binary_tensors_that_do_not_fit_are_a_400(ask: Ask, old: bytes, new: bytes, told: str) -> None:
    """A length that lies must not reach into another tensor."""
    body, headers = binary(ROW)
    assert old in body
    status, _, answer = ask("/v2/models/f/infer", body.replace(old, new), headers=headers)
    assert status == 400
    assert told in answer["error"]


def test_bytes_that_belong_to_no_tensor_are_a_400(ask: Ask) -> None:
    """They say that the two sides count differently."""
    body, headers = binary(ROW)
    assert ask("/v2/models/f/infer", body + b"\0", headers=headers)[0] == 400
    for length in ("x", "-1", "100000", "9" * 30):
        wrong = {**headers, "inference-header-content-length": length}
        assert ask("/v2/models/f/infer", body, headers=wrong)[0] == 400


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_binary_request_is_a_5xx(follower: Follower, data: st.DataObject) -> None:
    """Its lengths are a stranger's numbers."""
    body, headers = binary(ROW, OTHER)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    status = ask_application(Sidecar(follower), "/v2/models/f/infer", bytes(damaged), headers=headers)[0]
    assert status in {200, 400}
