"""Check requests, responses and webhooks against the OpenAPI description in bodies/openapi.yaml."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from avaturn_async.testing import RecordedRequest

_DESCRIPTION: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "bodies" / "openapi.yaml").read_text())
_REGISTRY: Registry[Any] = Registry().with_resource("urn:api", DRAFT202012.create_resource(_DESCRIPTION))


def operations() -> dict[str, dict[str, Any]]:
    """Return the operations by their id, each with its method and path."""
    return {
        operation["operationId"]: {
            **operation,
            "method": method.upper(),
            "path": path,
            "parameters": item.get("parameters", []) + operation.get("parameters", []),
        }
        for path, item in _DESCRIPTION["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def check_response(operation_id: str, status: int, content_type: str, body: bytes) -> None:
    """Check that a response is described."""
    responses = operations()[operation_id]["responses"]
    assert str(status) in responses, f"{operation_id} has no response {status}"
    assert content_type.partition(";")[0] == "application/json"
    response = responses[str(status)]
    if "$ref" in response:
        response = _DESCRIPTION["components"]["responses"][response["$ref"].rsplit("/", 1)[-1]]
    _validate(json.loads(body), response["content"]["application/json"]["schema"])


def check_event(event: dict[str, Any]) -> None:
    """Check that a webhook is described."""
    request = _DESCRIPTION["webhooks"][event["event"]]["post"]["requestBody"]
    _validate(event, request["content"]["application/json"]["schema"])


def check_request(request: RecordedRequest) -> str:
    """Check that a request is described, and return the id of its operation."""
    operation = find_operation(request)
    in_query = {p["name"]: p for p in operation["parameters"] if p["in"] == "query"}
    assert set(request.query) <= set(in_query)
    for name, parameter in in_query.items():
        if name in request.query:
            _validate(request.query[name], parameter["schema"])
        else:
            assert not parameter.get("required"), f"{name} is missing in the query"
    if "requestBody" in operation:
        assert request.headers["Content-Type"] == "application/json"
        _validate(request.parsed, operation["requestBody"]["content"]["application/json"]["schema"])
    else:
        assert request.body == b""
        assert "Content-Type" not in request.headers
    assert re.fullmatch(r"Bearer \S+", request.headers["Authorization"])
    return str(operation["operationId"])


def find_operation(request: RecordedRequest) -> dict[str, Any]:
    """Return the operation of a request."""
    for operation in operations().values():
        match = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", operation["path"]), request.path)
        if match and operation["method"] == request.method:
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    _validate(match[parameter["name"]], parameter["schema"])
            return operation
    raise AssertionError(f"no operation is {request.method} {request.path}")


def schemas() -> dict[str, Any]:
    """Return all named schemas."""
    named: dict[str, Any] = _DESCRIPTION["components"]["schemas"]
    return named


def _validate(value: Any, schema: dict[str, Any]) -> None:
    # References inside the description are relative to its root.
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:api#/'))
    Draft202012Validator(absolute, registry=_REGISTRY).validate(value)
