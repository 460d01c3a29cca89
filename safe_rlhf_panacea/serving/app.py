"""The routes of the server, and the page for people."""

from __future__ import annotations

import base64
import hashlib
import json
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
from safe_rlhf_panacea.io import unique_keys
from safe_rlhf_panacea.records import Examples
from safe_rlhf_panacea.serving.engine import ENDED
from safe_rlhf_panacea.serving.guard import Guard, Metrics
from safe_rlhf_panacea.serving.protocol import ApiError, ChatRequest, CompletionRequest, error_body
from safe_rlhf_panacea.serving.rules import Rules
from safe_rlhf_panacea.serving.service import Service

FOLDER = Path(__file__).with_name("page")
SCRIPTS = ("basics.js", "preference.js", "answers.js", "front.js", "start.js")
TOKENS = 128  # of an answer on the page, unless the reader wants another number


def page_facts(
    rules: Rules,
    front: dict[str, Any] | None,
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
        "front": front,
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


class UniqueKeysRoute(APIRoute):
    """A route whose JSON has every key once: of two values the last would win unseen."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                if request.method == "POST":
                    body = await request.body()
                    request._json = json.loads(body, object_pairs_hook=unique_keys)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, ClientDisconnect):
                pass  # FastAPI meets the same, and answers it
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
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
        corners = [
            corner for corner in torch.eye(len(rules.objectives)) if not rules.broken(corner)
        ]
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


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.body, error.status, headers=headers)

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: UserError) -> Response:
        return JSONResponse(error_body(400, one_line(error) or ""), 400)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        # Of a field that may have several types, rather what is wrong with the one that it has.
        found = error.errors()
        first = next((one for one in found if not one["type"].endswith("_type")), found[0])
        parts = [str(part) for part in first["loc"][1:]]
        # Where pydantic names one of several types, that is no part of the place.
        types = ("str", "int", "float")
        place = ".".join(part for part in parts if "[" not in part and part not in types)
        message = first["msg"].removeprefix("Value error, ")
        text = f"{place}: {message}" if place else message
        return JSONResponse(error_body(400, text, param=place or None), 400)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body(500, "an error of the server"), 500)


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
    app.router.route_class = UniqueKeysRoute
    _add_api(app, service, metrics)
    _add_page(app, facts)
    _add_errors(app)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    routes = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    return Guard(app, metrics, routes, max_body, token)
