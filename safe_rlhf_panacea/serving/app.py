"""The routes."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from safe_rlhf_panacea.errors import UserError, one_line
from safe_rlhf_panacea.io import unique_keys
from safe_rlhf_panacea.serving.engine import ENDED
from safe_rlhf_panacea.serving.errors import ApiError, error_body
from safe_rlhf_panacea.serving.guard import Guard
from safe_rlhf_panacea.serving.page import Page
from safe_rlhf_panacea.serving.schema import ChatRequest, CompletionRequest
from safe_rlhf_panacea.serving.service import Service


class UniqueKeys(Request):
    """A request whose JSON has every key once: of two values the last would win unseen."""

    async def json(self) -> Any:
        """The body.

        Raises:
            HTTPException: a key stands twice in one object.
        """
        if not hasattr(self, "_json"):
            try:
                self._json = json.loads(await self.body(), object_pairs_hook=unique_keys)
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
        return self._json


class UniqueKeysRoute(APIRoute):
    """A route that reads its body as ``UniqueKeys`` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand on the request in that form."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(UniqueKeys(request.scope, request.receive))

        return handler


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await service.answer(body, request)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await service.answer(body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": service.models()}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        preference = service.rules.resolve(name, None)
        found = {"id": name, "object": "model", "created": 0, "owned_by": "local"}
        values = zip(service.rules.objectives, preference.tolist(), strict=True)
        return {**found, "preference": {key: round(value, 6) for key, value in values}}


def _add_pages(app: FastAPI, service: Service, page: Page) -> None:
    @app.get("/")
    async def index() -> Response:
        return Response(page.html, media_type="text/html", headers=page.headers)

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/panacea.json")
    async def facts() -> dict[str, Any]:
        return page.facts

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not service.engine.is_alive:
            raise ApiError(503, ENDED)
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        text = service.engine.metrics.render(service.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


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
        place = ".".join(str(part) for part in first["loc"][1:] if not _is_type(part))
        message = first["msg"].removeprefix("Value error, ")
        text = f"{place}: {message}" if place else message
        return JSONResponse(error_body(400, text, param=place or None), 400)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body(500, "an error of the server"), 500)


def _is_type(part: object) -> bool:
    """Whether a part of a place names one of several types, as pydantic has it, not a field."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float"))


def make_app(
    service: Service,
    page: Page,
    max_body: int,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
) -> Any:
    """The application, as uvicorn runs it.

    Args:
        service: answers.
        page: what people see.
        max_body: bytes of a request.
        token: that clients must send; None: none.
        hosts: names by which it may be asked; None: any.
    """
    # No pages of FastAPI's own: they would load scripts from elsewhere.
    app = FastAPI(title="Panacea", docs_url=None, redoc_url=None)
    app.router.route_class = UniqueKeysRoute
    _add_api(app, service)
    _add_pages(app, service, page)
    _add_errors(app)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    routes = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    return Guard(app, service.engine.metrics, routes, max_body, token)
