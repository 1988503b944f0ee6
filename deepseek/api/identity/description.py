"""What the OpenAPI description says of identity: the two headers a key may come in, and the answers of a guarded route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.routing import BaseRoute, Route

from deepseek.api.problems import PROBLEM_MEDIA_TYPE
from deepseek.api.scopes import Scope, scope_of

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key (dsk_…) or a token of the issuer (JWT)."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}
REFUSALS = {
    "401": "No key, or none that is valid",
    "403": "The key may not do this",
    "429": "Too many requests",
    "503": "Not now",
}


def add_security(document: dict[str, Any], routes: Iterable[BaseRoute]) -> None:
    """Every described route that is not public asks for one of the two, and may refuse."""
    document.setdefault("components", {})["securitySchemes"] = SCHEMES
    problem = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}}}
    for route in routes:
        if not isinstance(route, Route) or scope_of(route) in (None, Scope.PUBLIC):
            continue
        for method in route.methods or ():
            operation = document["paths"].get(route.path, {}).get(method.lower())
            if operation is not None:
                operation["security"] = [{name: []} for name in SCHEMES]
                for status, description in REFUSALS.items():
                    operation["responses"].setdefault(status, {"description": description, "content": problem})
