"""The service's description for OpenAPI, from the dataclasses of its requests."""

from __future__ import annotations

import dataclasses
import types
import typing
from importlib.metadata import version
from typing import Any

from p5jax.serving.http.bodies import BODIES

_GETS = {
    "/v1/model": "What is served: run, prompts and limits",
    "/v1/items": "Items whose titles or keys have the words of a query",
    "/v1/users": "Users whose names or keys have the words of a query",
    "/healthz": "Whether the process is alive",
    "/readyz": "Whether it answers",
    "/metrics": "Counters for Prometheus",
}
_FAILURES = {
    "401": "no or a wrong token",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "415": "the body is no JSON",
    "422": "what was asked is wrong; the error has the field and what was expected",
    "429": "too many wait; Retry-After says for how long",
    "503": "not ready yet",
    "504": "no answer within the deadline",
}
_SCALARS = {str: "string", int: "integer", bool: "boolean", float: "number"}


def document() -> dict[str, Any]:
    """Return the document, of version 3.1."""
    paths: dict[str, Any] = {}
    for name, (kind, summary) in BODIES.items():
        content = {"application/json": {"schema": _object(kind)}}
        paths[f"/v1/{name}"] = {
            "post": _operation(summary, requestBody={"required": True, "content": content})
        }
    for path, summary in _GETS.items():
        query = {"name": "query", "in": "query", "schema": {"type": "string"}}
        run = {"name": "run", "in": "query", "schema": {"type": "string"}}
        limit = {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}}
        of = {
            "/v1/model": [run],
            "/v1/items": [query, limit, run],
            "/v1/users": [query, limit, run],
        }.get(path)
        paths[path] = {"get": _operation(summary, **({"parameters": of} if of else {}))}
    paths["/admin/reload"] = {"post": _operation("Load the run anew, without a dropped request")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "p5jax", "version": version("p5jax")},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


def _operation(summary: str, **more: Any) -> dict[str, Any]:
    responses = {"200": {"description": "the answer"}}
    responses |= {status: {"description": text} for status, text in _FAILURES.items()}
    return {"summary": summary, "responses": responses, **more}


def _object(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _schema(hints[field.name]) for field in fields},
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
    }


def _schema(hint: Any) -> dict[str, Any]:
    if isinstance(hint, types.UnionType):
        parts = [each for each in hint.__args__ if each is not types.NoneType]
        return (
            _schema(parts[0]) if len(parts) == 1 else {"anyOf": [_schema(each) for each in parts]}
        )
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _schema(typing.get_args(hint)[0])}
    return {"type": _SCALARS[hint]}
