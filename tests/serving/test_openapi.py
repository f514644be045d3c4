"""The description of the addresses is true: what it says is taken is taken, and no address is left out."""

from typing import Any

import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.follower import Follower
from serving.http import Sidecar
from serving.openapi import document
from tests.serving.asking import ROW, ask_application

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_every_address_is_described_and_every_described_one_answers(follower: Follower) -> None:
    """A client that is generated from the description must reach everything."""
    application = Sidecar(follower)
    described = ask_application(application, "/openapi.json")[2]
    assert described["info"]["version"] == "7"
    assert set(described["paths"]) == {*application._gets, *application._codecs}
    for path, operations in described["paths"].items():
        if "get" in operations:
            status, headers, _ = ask_application(application, path)
            answer = operations["get"]["responses"][str(status)]
            assert headers["content-type"].partition(";")[0] in answer["content"], path


def test_the_row_described_is_the_row_taken(follower: Follower) -> None:
    """The names and types come from the version that is served."""
    shapes = document("f", follower.current)["paths"]["/invocations"]["post"]["requestBody"]["content"]
    records = next(
        shape["properties"]["dataframe_records"]["items"]
        for shape in shapes["application/json"]["schema"]["anyOf"]
        if "dataframe_records" in shape["properties"]
    )
    assert list(records["properties"]) == list(ROW)
    assert records["properties"]["carrier"] == {"type": ["string", "null"]}


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows(follower: Follower) -> None:
    """It is opened where there is no network, and a flow's name is somebody's text."""
    page = ask_application(Sidecar(follower), "/docs")[2].decode()
    assert "POST /v2/models/f/infer" in page
    assert "src=" not in page
    assert "http://" not in page
    from serving.openapi import page as show

    assert b"<script>" not in show(document("<script>", None))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_whatever_is_generated_from_the_description_gets_a_described_answer(sidecar: Any, rest_registry: Any) -> None:
    """Neither right nor wrong requests, thousands of them, get a 5xx or an answer nobody described."""
    from hypothesis import HealthCheck, given, settings

    rest_registry.folder.add(1)
    rest_registry.folder.promote(1)
    running = sidecar("models:/f/Production", rest_registry.uri)
    running.wait_version(1)
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{running.port}/openapi.json")
    tried = 0
    for operation in schema.get_all_operations():

        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy())
        def ask(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=CHECKS)

        ask()
    assert tried > 100
    assert running.request("GET", "/ping")[0] == 200
    assert running.terminate() == 0
