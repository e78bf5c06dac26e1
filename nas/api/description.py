"""What the API says of itself: an OpenAPI document made from its routes, with the specs' own schema in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from nas.api.access import PUBLIC, access_of
from nas.api.refusals import ErrorDocument
from nas.service.specs import spec_schema

Json = Any

TEXT = """Hardware-aware neural architecture search as a service. Every refusal is `{"error": {"code", "message"}}`. Times are
epoch seconds by the clock of the service's database."""

PARTS = "#/components/schemas/"
REFUSAL = {
    "description": "A refusal.",
    "content": {"application/json": {"schema": {"$ref": f"{PARTS}ErrorDocument"}}},
}


def describe(app: FastAPI) -> dict[str, Json]:
    """The document, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _described(app)
    return app.openapi_schema


def _described(app: FastAPI) -> dict[str, Json]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=TEXT)
    spec = _moved(spec_schema())
    parts = found["components"]["schemas"]
    parts |= {**spec.pop("$defs"), "Spec": spec, "ErrorDocument": _moved(ErrorDocument.model_json_schema())}
    parts |= parts["ErrorDocument"].pop("$defs")
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's own, which are never sent
        parts.pop(name, None)
    body = found["paths"]["/v1/jobs"]["post"]["requestBody"]
    body["content"]["application/json"]["schema"] = {"$ref": f"{PARTS}Spec"}
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for route, operation in _operations(app, found):
        access = access_of(route)
        operation["security"] = [] if access is None or access.scope == PUBLIC else [{"token": []}]
        operation["responses"] |= {"422": REFUSAL} if "422" in operation["responses"] else {}
        operation["responses"].setdefault("default", REFUSAL)
    return found


def _operations(app: FastAPI, document: Json) -> Iterator[tuple[APIRoute, dict[str, Json]]]:
    """Every route that is described, with its part of the document."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                yield route, document["paths"][route.path_format][method.lower()]


def _moved(schema: Json) -> Json:
    """A JSON Schema whose parts stand among those of OpenAPI."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/$defs/", PARTS) if key == "$ref" else _moved(value) for key, value in schema.items()
        }
    return [_moved(each) for each in schema] if isinstance(schema, list) else schema
