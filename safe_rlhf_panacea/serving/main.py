"""The command line of the server."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch

from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.configs import Options, Program, configuration, kinds, option
from safe_rlhf_panacea.configs.training import DeviceOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.records import read_examples
from safe_rlhf_panacea.respond import PanaceaModel

PROGRAM = "python -m safe_rlhf_panacea.serve"
TOKEN = "PANACEA_TOKEN"
LONGEST = 4096  # of --max_length, unless asked for more
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# What requests from this machine call it; "[" is what an old starlette reads in "[::1]:8000".
LOCAL_NAMES = (*LOOPBACK, "[::1]", "[")


@configuration
class PreferenceRules(Options):
    """Which λ requests may have."""

    GROUP: ClassVar[str] = "preference"

    preference: str | None = option(
        text="λ of requests that name none", kind=kinds.preference, metavar="VECTOR"
    )
    allow: tuple[str, ...] = option((), "'helpful<=0.8'; repeat", metavar="BOUND", repeat=True)
    front: str | None = option(text="an evaluation's folder, for the page")


@configuration
class NetworkOptions(Options):
    """Where the server listens."""

    GROUP: ClassVar[str] = "network"

    host: str = option("127.0.0.1")
    port: int = option(
        8000, "0: a free one", kind=kinds.integer("a port, a number from 0 to 65535", 0, 65535)
    )
    token: str | None = option(text=f"bearer token; better as {TOKEN}")


@configuration
class LimitOptions(Options):
    """What bounds the server."""

    GROUP: ClassVar[str] = "limits"

    max_rows: int = option(32, "answers at a time")
    max_waiting: int = option(64, "answers that wait, beyond which there is 429")
    max_length: int | None = option(text="tokens of prompt and answer")
    max_new_tokens: int = option(512, "tokens of an answer")
    max_body: int = option(2**20, "bytes of a request")
    max_connections: int = option(512, "open at a time")
    max_wait: float = option(60.0, "seconds for a row", kind=kinds.positive_float)
    timeout: float = option(300.0, "seconds in all", kind=kinds.positive_float)


@configuration
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
    """The bearer token of ``--token`` or the environment; white space around it is no part of it.

    Raises:
        UserError: there is nothing else, or no client could send it.
    """
    text = given or os.environ.get(TOKEN)
    if not text:
        return None
    name, token = "--token" if given else TOKEN, text.strip()
    if not token:
        raise UserError(f"{name} holds nothing but white space: set a token, or leave it out")
    if not token.isprintable():  # bytes that are not UTF-8 arrive as halves of surrogate pairs
        raise UserError(f"{name} is not one line of text: it has control characters or no UTF-8")
    return token


def load_model(args: DeviceOptions) -> PanaceaModel:
    """The model that the options name, where they want it.

    Raises:
        UserError, AdapterError: it is not there, or the device is not.
    """
    model = PanaceaModel.load(
        args.adapter,
        args.base_model,
        chat_template=args.chat_template,
        trust_remote_code=args.trust_remote_code,
    )
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    try:
        model.model.to(torch.device(device), dtype)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return model


def longest(model: PanaceaModel, asked: int | None) -> int:
    """How long sequences may be, in tokens.

    Raises:
        UserError: longer than the model can.
    """
    config = model.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if asked is not None and asked > positions:
        raise UserError(f"--max_length is {asked}, and the model has {positions} positions")
    return asked or min(positions, getattr(config, "sliding_window", None) or LONGEST, LONGEST)


def open_socket(host: str, number: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the port is taken, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, number), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"--host {host} --port {number}: {error.strerror or error}") from None


def make_service(args: ServeOptions) -> tuple[Any, Any]:
    """The model with its engine, and the page."""
    from safe_rlhf_panacea.serving.engine import Engine, Limits
    from safe_rlhf_panacea.serving.page import Page, find_front
    from safe_rlhf_panacea.serving.rules import Rules
    from safe_rlhf_panacea.serving.service import Service

    config = read_config(args.adapter)
    name = args.model_name or Path(args.adapter).resolve().name
    rules = Rules.of(name, config.names, args.preference, args.allow)
    front = find_front(Path(args.adapter), None if args.front is None else Path(args.front))
    if front is not None and front["objectives"] != list(config.names):
        raise UserError(f"the front has the objectives {', '.join(front['objectives'])}")
    examples = read_examples(args.adapter)
    model = load_model(args)
    length = longest(model, args.max_length)
    limits = Limits(args.max_rows, args.max_waiting, args.max_wait, args.timeout, length)
    tokens = min(args.max_new_tokens, length - 1)
    service = Service(model, Engine(model, limits), rules, tokens)
    return service, Page(rules, front, tokens, length, examples)


def make_server(args: ServeOptions) -> tuple[Any, Any, socket.socket]:
    """A server that is ready to run, its service, and the socket that it listens on.

    Raises:
        UserError: the extra is not installed, the port is taken, or a flag is refused.
    """
    try:
        import uvicorn

        from safe_rlhf_panacea.serving.app import make_app
        from safe_rlhf_panacea.serving.connection import Connection
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'safe-rlhf-panacea[serve]'"
        ) from None
    token = read_token(args.token)
    listening = open_socket(args.host, args.port)
    service, page = make_service(args)
    # A page of another site whose name has come to mean this machine knows no token, but may ask.
    hosts = LOCAL_NAMES if args.host in LOOPBACK and token is None else None
    config = uvicorn.Config(
        make_app(service, page, args.max_body, token, hosts),
        http=partial(Connection, max_connections=args.max_connections),  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(args.timeout) + 1,
    )
    if args.host not in LOOPBACK and token is None:
        say(f"warning: anyone who reaches {args.host} may ask: set {TOKEN}", file=sys.stderr)
    return uvicorn.Server(config), service, listening


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Load, listen, answer until SIGTERM or Ctrl-C; what runs then is finished."""
    args = COMMAND.read(argv)
    signal.signal(signal.SIGTERM, _leave)  # uvicorn's own stands before it while it runs
    server, service, listening = make_server(args)
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    say(f"{service.rules.label(service.rules.default)} at {address}")
    try:
        server.run(sockets=[listening])
    finally:
        service.engine.close(finish=not server.force_exit)
