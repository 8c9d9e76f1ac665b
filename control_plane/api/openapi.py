"""The API's own description, made to validate as OpenAPI 3.1 and to tell of problems as they are answered."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from control_plane.api.errors import Problem

DESCRIPTION = """Rollout and safety control plane for engagement models.

Errors are problem details (RFC 9457). Where this deployment has tokens, every write needs one. Changes may name the
generation they act on, in `If-Match` or as `seen_generation`, and are refused with 412 or 409 when someone moved first.
A change under an `Idempotency-Key` is carried out once: for 24 hours the same request is answered alike, byte for byte,
with `Idempotency-Replayed: true`; another request under the key is refused with 422. What was refused may try again.
"""
WRITES = ("post", "put", "delete", "patch")


def describe(app: FastAPI) -> dict[str, Any]:
    """Built once and kept, as FastAPI does."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
        )
        components = schema.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schemas["Problem"].pop("$defs"))
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in schema["paths"].values():
            for method, operation in path.items():
                _finish(method, operation)
        app.openapi_schema = schema
    return app.openapi_schema


def _finish(method: str, operation: dict[str, Any]) -> None:
    if method in WRITES:
        operation["security"] = [{}, {"token": []}]
    for answer in operation["responses"].values():
        for content in answer.get("content", {}).values():
            if content.pop("itemSchema", None) is not None:  # a word of OpenAPI 3.2
                content["schema"] = {"type": "string"}
