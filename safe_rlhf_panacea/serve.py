"""The server: ``python -m safe_rlhf_panacea.serve``."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.configs import Options, Program, kinds, option
from safe_rlhf_panacea.configs.training import DeviceOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.records import read_examples

PROGRAM = "python -m safe_rlhf_panacea.serve"
TOKEN = "PANACEA_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# What requests from this machine call it; "[" is what an old starlette reads in "[::1]:8000".
LOCAL_NAMES = (*LOOPBACK, "[::1]", "[")


class PreferenceRules(Options, group="preference"):
    """Which λ requests may have."""

    preference: kinds.Vector | None = option(None, "λ of requests that name none")
    allow: tuple[str, ...] = option((), "'helpful<=0.8'; repeat", metavar="BOUND", repeat=True)
    front: str | None = option(text="an evaluation, for the page; default: the adapter's own")


class NetworkOptions(Options, group="network"):
    """Where the server listens."""

    host: str = option("127.0.0.1")
    port: kinds.Port = option(8000, "0: a free one")
    token: str | None = option(text=f"bearer token; better as {TOKEN}")


class LimitOptions(Options, group="limits"):
    """What bounds the server."""

    max_rows: int = option(32, "answers at a time")
    max_waiting: int = option(64, "answers that wait, beyond which there is 429")
    max_length: int | None = option(text="tokens of prompt and answer")
    max_new_tokens: int = option(512, "tokens of an answer")
    max_body: int = option(2**20, "bytes of a request")
    max_connections: int = option(512, "open at a time")
    max_wait: kinds.Positive = option(60.0, "seconds for a row")
    timeout: kinds.Positive = option(300.0, "seconds in all")


class ServeOptions(LimitOptions, NetworkOptions, PreferenceRules, DeviceOptions):
    """Serve a trained adapter: OpenAI's API with a λ per request, and a page with sliders.

    docs/serving.md shows how it is asked.
    """

    model_name: str | None = option(text="default: the adapter's folder")


COMMAND = Program(
    ServeOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --adapter runs/latest/panacea-ppo
    {TOKEN}=secret {PROGRAM} --adapter runs/latest/panacea-ppo --host 0.0.0.0 \\
      --allow 'helpful<=0.8'
    """,
)


def read_token(given: str | None) -> str | None:
    """The bearer token of ``--token`` or the environment, without white space around it."""
    text = given or os.environ.get(TOKEN)
    if not text:
        return None
    name, token = "--token" if given else TOKEN, text.strip()
    if not token:
        raise UserError(f"{name} holds nothing but white space: set a token, or leave it out")
    if not token.isprintable():  # bytes that are not UTF-8 arrive as halves of surrogate pairs
        raise UserError(f"{name} is not one line of text: it has control characters or no UTF-8")
    return token


def make_server(args: ServeOptions) -> tuple[Any, Any, socket.socket]:
    """A server that is ready to run, its service, and the socket that it listens on."""
    try:
        import uvicorn

        from safe_rlhf_panacea.serving.app import make_app, page_facts
        from safe_rlhf_panacea.serving.guard import Connection, Metrics
        from safe_rlhf_panacea.serving.service import Service
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'safe-rlhf-panacea[serve]'"
        ) from None
    from safe_rlhf_panacea.adapter.io import read_config
    from safe_rlhf_panacea.export.card import find_front
    from safe_rlhf_panacea.respond import load_model
    from safe_rlhf_panacea.serving.batch import longest
    from safe_rlhf_panacea.serving.engine import Engine, Limits
    from safe_rlhf_panacea.serving.rules import Rules

    token, adapter = read_token(args.token), Path(args.adapter)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        listening = socket.create_server((args.host, args.port), family=family, backlog=2048)
    except OSError as error:
        where = f"--host {args.host} --port {args.port}"
        raise UserError(f"{where}: {error.strerror or error}") from None
    config = read_config(adapter)
    name = args.model_name or adapter.resolve().name
    rules = Rules.of(name, config.names, args.preference, args.allow)
    front = find_front(adapter, config.names, args.front)
    examples, model = read_examples(adapter), load_model(args)
    length = longest(model.model, args.max_length)
    limits = Limits(args.max_rows, args.max_waiting, args.max_wait, args.timeout, length)
    tokens = min(args.max_new_tokens, length - 1)
    metrics = Metrics()
    service = Service(model, Engine(model, limits, metrics), rules, tokens)
    facts = page_facts(rules, front, tokens, length, examples)
    # A page of another site whose name has come to mean this machine knows no token, but may ask.
    hosts = LOCAL_NAMES if args.host in LOOPBACK and token is None else None
    settings = uvicorn.Config(
        make_app(service, facts, metrics, args.max_body, token, hosts),
        http=partial(Connection, max_connections=args.max_connections),  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(args.timeout) + 1,
    )
    if args.host not in LOOPBACK and token is None:
        say(f"warning: anyone who reaches {args.host} may ask: set {TOKEN}", file=sys.stderr)
    return uvicorn.Server(settings), service, listening


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Load, listen, answer until SIGTERM or Ctrl-C; what runs then is finished."""
    args = COMMAND.read(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # while it runs, uvicorn has its own
    server, service, listening = make_server(args)
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    say(f"{service.rules.label(service.rules.default)} at {address}")
    try:
        server.run(sockets=[listening])
    finally:
        service.engine.close(finish=not server.force_exit)


if __name__ == "__main__":
    main()
