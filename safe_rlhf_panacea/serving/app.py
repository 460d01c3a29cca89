"""The routes of the server, and the page for people."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from safe_rlhf_panacea.errors import UserError, one_line
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import strict_json
from safe_rlhf_panacea.records import Examples
from safe_rlhf_panacea.serving.engine import ENDED
from safe_rlhf_panacea.serving.guard import Guard, Metrics
from safe_rlhf_panacea.serving.protocol import ApiError, ChatRequest, CompletionRequest
from safe_rlhf_panacea.serving.rules import Rules
from safe_rlhf_panacea.serving.service import GONE, Service

FOLDER = Path(__file__).with_name("page")
SCRIPTS = ("basics.js", "preference.js", "answers.js", "front.js", "start.js")
# Of the front, for the page.
SHOWN: dict[str, Any] = {
    **dict.fromkeys(("kind", "label", "objectives", "axis_labels", "base"), True),
    "points": {"__all__": {"preference", "objectives"}},
}
TOKENS = 128  # of an answer on the page, unless the reader wants another number


class StrictRoute(APIRoute):
    """A route that reads JSON as strictly as files: each key once, and numbers that are finite."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            if request.method == "POST":
                body = await request.body()
                try:
                    request._json = strict_json(body.decode())
                except (ValueError, RecursionError) as error:
                    raise ApiError(400, f"the body is not valid JSON: {error}") from None
            return await handle(request)

        return handler


def _add_api(app: FastAPI, service: Service, metrics: Metrics) -> None:
    rules = service.rules

    def about(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "local"}

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await service.answer(body, request)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await service.answer(body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        # The allowed corners too, for clients that can only choose a name.
        corners = [one for one in torch.eye(len(rules.objectives)) if not rules.broken(one)]
        names = [rules.name, *map(rules.label, corners)]
        return {"object": "list", "data": [about(name) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return {**about(name), "preference": rules.by_name(rules.resolve(name, None))}

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not service.engine.is_alive:
            raise ApiError(503, ENDED)
        return {"status": "ok"}

    @app.get("/metrics")
    async def told() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def page_facts(
    rules: Rules,
    front: FrontResult | None,
    max_new_tokens: int,
    max_length: int,
    examples: Examples,
) -> dict[str, Any]:
    """What the page asks for first, as JSON."""
    return {
        "model": rules.name,
        "objectives": list(rules.objectives),
        "preference": list(rules.by_name(rules.default).values()),
        "lower": list(rules.lower),
        "upper": list(rules.upper),
        "max_tokens": max_new_tokens,
        "tokens": min(max_new_tokens, max_length // 2, TOKENS),
        "front": front and front.model_dump(mode="json", include=SHOWN),
        "examples": examples.model_dump(),
    }


def _add_page(app: FastAPI, facts: dict[str, Any]) -> None:
    """One document with its script and its style in it, the only ones that a browser may use."""
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    policy = {"default-src": "'none'", "connect-src": "'self'", "base-uri": "'none'"}
    policy |= {"form-action": "'none'", "frame-ancestors": "'none'"}
    for kind, names in (("script", SCRIPTS), ("style", ("style.css",))):
        text = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
        html = html.replace(f"<{kind}></{kind}>", f"<{kind}>{text}</{kind}>")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        policy[f"{kind}-src"] = f"'sha256-{digest}'"
    allowed = "; ".join(f"{key} {value}" for key, value in policy.items())
    headers = {"Content-Security-Policy": allowed, "Cache-Control": "no-cache"}

    @app.get("/")
    async def index() -> Response:
        return Response(html, media_type="text/html", headers=headers)

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/panacea.json")
    async def told() -> dict[str, Any]:
        return facts


def _as_api_error(error: Exception) -> ApiError:
    """What a client is told of any exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, one_line(error) or "")
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    if isinstance(error, ClientDisconnect):
        return ApiError(*GONE)
    if not isinstance(error, RequestValidationError):
        return ApiError(500, "an error of the server")
    # Of a field that may have several types, rather what is wrong with the one that it has.
    found = error.errors()
    first = next((one for one in found if not one["type"].endswith("_type")), found[0])
    parts = [str(part) for part in first["loc"][1:]]
    # Where pydantic names one of several types, that is no part of the place.
    types = ("str", "int", "float")
    place = ".".join(part for part in parts if "[" not in part and part not in types)
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{place}: {message}" if place else message, param=place or None)


async def _tell(request: Request, error: Exception) -> Response:
    told = _as_api_error(error)
    headers = {"Retry-After": "1"} if told.status in (429, 503) else None
    return JSONResponse(told.body, told.status, headers=headers)


def make_app(
    service: Service,
    facts: dict[str, Any],
    metrics: Metrics,
    max_body: int,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
) -> Any:
    """The application, as uvicorn runs it.

    Args:
        service: answers.
        facts: of the page.
        metrics: the engine's, which count the requests too.
        max_body: bytes of a request.
        token: that clients must send; None: none.
        hosts: names by which it may be asked; None: any.
    """
    # No pages of FastAPI's own: they would load scripts from elsewhere.
    app = FastAPI(title="Panacea", docs_url=None, redoc_url=None)
    app.router.route_class = StrictRoute
    _add_api(app, service, metrics)
    _add_page(app, facts)
    for kind in (UserError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _tell)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    routes = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    return Guard(app, metrics, routes, max_body, token)
