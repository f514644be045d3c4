"""The sidecar's addresses described for programs (`/openapi.json`, OpenAPI 3.1) and for people (`/docs`).

Both are made from one table, and the bodies from the signature of the version that is served, so that what is described
is what is taken. The page needs nothing from elsewhere.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from serving.model import ServedModel
from serving.wire import STATUS

_PREDICTING: Final = ("400", "401", "408", "413", "415", "429", "503")
_KINDS: Final = {"string": {"type": ["string", "null"]}, "float": {"type": ["number", "null"]}}
_ARROW: Final = "application/vnd.apache.arrow.stream"

# address under the model's own, what it is for, the statuses it is answered with
_SHOWN: Final = (
    ("/", "the page: version, swaps, traffic, live figures", ("200",)),
    ("/ping", "200 if and only if a verified model is loaded", ("200", "503")),
    ("/health", "200 if and only if a verified model is loaded, as /ping", ("200", "503")),
    ("/v2/health/ready", "200 if and only if a verified model is loaded, as /ping", ("200", "503")),
    ("{model}/ready", "200 if and only if a verified model is loaded, as /ping", ("200", "503")),
    ("/v2/health/live", "200 while the follower follows", ("200", "503")),
    ("/v2", "the server's metadata", ("200", "401")),
    ("{model}", "the model's metadata: its inputs and its output", ("200", "401", "503")),
    ("/version", "the served version and its lineage", ("200", "401", "503")),
    ("/status", "what the follower does, its swaps, and what is in quarantine and why", ("200", "401")),
    ("/metrics", "figures for Prometheus", ("200", "401")),
    ("/openapi.json", "this description for programs", ("200", "401")),
    ("/docs", "this description for people", ("200", "401")),
)
_MEDIA_TYPES: Final = {"/metrics": "text/plain", "/docs": "text/html", "/": "text/html"}


def document(flow: str, model: ServedModel | None) -> dict[str, Any]:
    """Return the OpenAPI document of a sidecar that follows a flow and serves `model`."""
    signature = dict(model.signature) if model else {}
    prefix = f"/v2/models/{flow}"
    paths: dict[str, Any] = {
        address.format(model=prefix): {"get": _operation(summary, statuses, _media_type(address))}
        for address, summary, statuses in _SHOWN
    }
    paths["/invocations"] = {
        "post": _scoring("score rows: MLflow's scoring protocol, or Arrow", _invocations(signature))
    }
    paths[f"{prefix}/infer"] = {"post": _scoring("score rows: the Open Inference Protocol", _tensors(signature))}
    paths["/invocations"]["post"]["requestBody"]["content"][_ARROW] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Model Flow: {flow}", "version": str(model.version if model else 0)},
        "paths": paths,
        "components": {
            "schemas": {"Refusal": _REFUSAL},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def page(described: Mapping[str, Any]) -> bytes:
    """Return the document as a page."""
    title = escape(described["info"]["title"])
    rows = "".join(_page_rows(described))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 sans-serif;margin:2em auto;max-width:60em}td{padding:.3em 1em .3em 0;"
        "vertical-align:top;border-top:1px solid #ddd}</style>"
        f"<h1>{title}</h1><table>{rows}</table>"
        '<p>Bodies and answers in full: <a href="/openapi.json">/openapi.json</a></p></html>'
    ).encode()


def _page_rows(described: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in sorted(described["paths"].items()):
        for method, operation in operations.items():
            bodies = ", ".join(operation.get("requestBody", {}).get("content", ()))
            cells = (f"{method.upper()} {path}", operation["summary"], bodies, ", ".join(operation["responses"]))
            yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _media_type(address: str) -> str:
    return _MEDIA_TYPES.get(address, "application/json")


def _operation(summary: str, statuses: tuple[str, ...], media_type: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {status: _answer(status, media_type) for status in statuses}}


def _scoring(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": body}}
    answers = {status: _answer(status) for status in ("200", *_PREDICTING)}
    answers["200"]["headers"] = {"X-Model-Version": {"schema": {"type": "integer"}, "description": "who answered"}}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": answers}


def _answer(status: str, media_type: str = "application/json") -> dict[str, Any]:
    codes = sorted({code for number, code in STATUS.values() if str(number) == status})
    if not codes:
        schema = {"type": "string"} if media_type.startswith("text/") else {"type": "object"}
        return {"description": "as asked", "content": {media_type: {"schema": schema}}}
    schema = {"type": "object"} if status == "503" else {"$ref": "#/components/schemas/Refusal"}
    return {"description": ", ".join(codes), "content": {"application/json": {"schema": schema}}}


def _invocations(signature: Mapping[str, str]) -> dict[str, Any]:
    row = _object({name: _KINDS[kind] for name, kind in signature.items()})
    columns = _object({name: {"type": "array", "items": _KINDS[kind]} for name, kind in signature.items()})
    split = _object(
        {
            "columns": {"enum": [list(signature)]},
            "data": {
                "type": "array",
                "items": {
                    "type": "array",
                    "items": {"type": ["string", "number", "null"]},
                    "minItems": len(signature),
                    "maxItems": len(signature),
                },
            },
        }
    )
    shapes = {
        "dataframe_split": split,
        "dataframe_records": {"type": "array", "items": row},
        "inputs": columns,
        "instances": {"type": "array", "items": row},
    }
    return {"anyOf": [_object({name: shape}) for name, shape in shapes.items()]}


def _tensors(signature: Mapping[str, str]) -> dict[str, Any]:
    datatypes = {"string": "BYTES", "float": "FP32"}
    tensors = [
        _object(
            {
                "name": {"const": name},
                "datatype": {"const": datatypes[kind]},
                "shape": {"const": [1]},
                "data": {"type": "array", "items": _KINDS[kind], "minItems": 1, "maxItems": 1},
            }
        )
        for name, kind in signature.items()
    ]
    inputs = {"type": "array", "items": {"anyOf": tensors}, "minItems": len(tensors), "maxItems": len(tensors)}
    return _object({"inputs": inputs})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


_REFUSAL: Final = _object({"error_code": {"type": "string"}, "message": {"type": "string"}})
