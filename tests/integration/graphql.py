"""The webserver asked as its own pages ask it."""

import http.client
import json
from typing import Any

_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


def launch(port: int, job: str) -> str:
    """Launch a job as the Dagster UI does, through its GraphQL API; return the run's id."""
    selector = {
        "repositoryLocationName": "modelflow",
        "repositoryName": "__repository__",
        "jobName": job,
    }
    variables = {"params": {"selector": selector, "runConfigData": "{}", "mode": "default"}}
    answer = graphql(port, _LAUNCH, variables)["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise AssertionError(f"expected Dagster to launch {job}, found {answer}")
    return str(answer["run"]["runId"])


def graphql(port: int, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Ask the Dagster webserver a GraphQL question; return its `data`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if "data" not in answer or answer.get("errors"):
        raise AssertionError(f"the Dagster webserver on port {port} refused a question: {answer.get('errors')}")
    return dict(answer["data"])
