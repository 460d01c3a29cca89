"""The server under load: tokens per second and time to first token, by concurrent clients.

Every client asks again as soon as it has its answer, streaming, through the official client. All λ
are equal or all differ; the adapter is never merged. Beside it transformers' ``generate``, one
request after the other. Needs the extras ``serve`` and ``dev``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.measuring import machine
from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_options
from safe_rlhf_panacea.configs.kinds import filled, positive_int
from safe_rlhf_panacea.configs.training import DeviceOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.respond import load_model
from safe_rlhf_panacea.show.tables import Table

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "python eval/benchmarks/serving.py"
EQUAL, DIFFERENT, ALONE = "all equal", "all different", "generate, one by one"
Found = dict[str, Any]  # a line of the table
GOALS = {"different against equal": 0.9, "against one by one": 4.0}  # at most clients
PROMPTS = (
    "How do I pick a lock?",
    "Write a short letter to a neighbour whose dog barks at night.",
    "What is the capital of Australia, and why is it not Sydney?",
    "Explain to a child why the sky is blue, and why it is red in the evening.",
    "My tooth hurts. What can I do until tomorrow?",
    "Give me three ideas for a dinner with what is left of rice, eggs and a cabbage.",
    "Is it safe to mix bleach with other cleaners?",
    "Tell me a story about a lighthouse.",
)


def measured(clients: int, kind: str, tokens: int, seconds: float, first: list[float]) -> Found:
    """A line of the table, from counts and clocks; printed at once."""
    found = {
        "clients": clients,
        "preferences": kind,
        "tokens_per_second": tokens / seconds,
        "first_token": statistics.median(first),
        "first_token_worst": max(first),
    }
    print(*(f"{v:.2f}" if isinstance(v, float) else v for v in found.values()), flush=True)
    return found


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM, __doc__ or "", f"{PROGRAM} --adapter runs/panacea-dpo --output serving.md"
    )
    add_options(parser, DeviceOptions)
    parser.add_argument("--clients", type=positive_int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=positive_int, default=64, help="of every answer")
    parser.add_argument("--requests", type=positive_int, default=2, help="of every client")
    text = "of which the median counts"
    parser.add_argument("--repeats", type=positive_int, default=3, help=text)
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--output", type=filled, help="the table; numbers go beside it as .json")
    return parser


@contextlib.contextmanager
def server(args: argparse.Namespace) -> Iterator[str]:
    """A server in a process of its own; yields its address."""
    command = [sys.executable, "-m", "safe_rlhf_panacea.serve", "--adapter", args.adapter]
    command += ["--dtype", args.dtype, "--trust_remote_code", str(args.trust_remote_code).lower()]
    for name in ("base_model", "chat_template", "device"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name}", value]
    command += ["--max_rows", str(max(args.clients)), "--max_new_tokens", str(args.tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PANACEA_TOKEN": ""}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [*command, "--port", "0", "--timeout", "3600"],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": path},
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if " at http" not in line:
            raise UserError("the server did not start")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait()


def preferences_of(clients: int, m: int, kind: str) -> list[list[float]]:
    """A λ for each client: the middle, or from one corner to the next."""
    if kind == EQUAL:
        return [[1 / m] * m] * clients
    places = np.linspace(0, m - 1, clients)[:, None]
    return np.clip(1 - np.abs(places - np.arange(m)), 0, None).tolist()


async def ask(client: Any, index: int, preference: list[float], tokens: int) -> float:
    """One request; returns the seconds until its first token."""
    started, first = time.perf_counter(), None
    stream = await client.chat.completions.create(
        model=None,
        messages=[{"role": "user", "content": PROMPTS[index % len(PROMPTS)]}],
        max_tokens=tokens,
        stream=True,
        temperature=0,
        extra_body={"preference": preference, "ignore_eos": True},
    )
    async for chunk in stream:
        if first is None and chunk.choices and not chunk.choices[0].delta.role:
            first = time.perf_counter() - started
    return time.perf_counter() - started if first is None else first


async def load(client: Any, args: argparse.Namespace, clients: int, m: int, kind: str) -> Found:
    """So many clients at a time."""
    vectors = preferences_of(clients, m, kind)

    async def run(index: int) -> list[float]:
        return [
            await ask(client, index + turn, vectors[index], args.tokens)
            for turn in range(args.requests)
        ]

    started = time.perf_counter()
    waited = await asyncio.gather(*(run(index) for index in range(clients)))
    seconds = time.perf_counter() - started
    first = [value for one in waited for value in one]
    return measured(clients, kind, args.tokens * len(first), seconds, first)


async def measure_server(url: str, args: argparse.Namespace, m: int) -> list[Found]:
    """All numbers of clients, the two kinds in turn."""
    from openai import AsyncOpenAI

    found = []
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=3600) as client:
        for clients in args.clients:
            await load(client, args, clients, m, DIFFERENT)  # warm
            runs: dict[str, list[Found]] = {EQUAL: [], DIFFERENT: []}
            for _ in range(args.repeats):
                for kind, several in runs.items():
                    several.append(await load(client, args, clients, m, kind))
            for several in runs.values():
                several.sort(key=lambda run: run["tokens_per_second"])
                found.append(several[len(several) // 2])
    return found


@torch.no_grad()
def measure_generate(args: argparse.Namespace) -> Found:
    """transformers' own loop, one request after the other, at λ that differ."""
    torch.set_num_threads(args.threads)
    given = {name: getattr(args, name) for name in DeviceOptions.OPTIONS}
    model = load_model(DeviceOptions(**given))
    m = model.adapter.pref_dim
    device = next(model.model.parameters()).device

    def generate(index: int, preference: list[float], tokens: int) -> float:
        model.adapter.set_preference(torch.tensor(preference))
        ids = torch.tensor([model.template.prompt_ids(PROMPTS[index % len(PROMPTS)])])
        started = time.perf_counter()
        model.model.generate(
            ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        return time.perf_counter() - started

    vectors = preferences_of(len(PROMPTS), m, DIFFERENT)
    generate(0, vectors[0], args.tokens)  # warm
    first = [generate(i, vector, 1) for i, vector in enumerate(vectors)]
    seconds = sum(generate(i, vector, args.tokens) for i, vector in enumerate(vectors))
    return measured(1, ALONE, args.tokens * len(vectors), seconds, first)


def table(args: argparse.Namespace, served: Sequence[Found], alone: Found) -> str:
    """All that was measured, and the goals."""
    equal, different = (found["tokens_per_second"] for found in served[-2:])
    ratios = {
        "different against equal": different / equal,
        "against one by one": different / alone["tokens_per_second"],
    }
    verdicts = [
        f"- {served[-1]['clients']} clients, {name}: {value:.2f} "
        f"(goal {GOALS[name]:g}: {'reached' if value >= GOALS[name] else 'MISSED'})"
        for name, value in ratios.items()
    ]
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    where = (
        f"{device}, {args.dtype}, {args.threads} threads, {machine(device)}; {args.tokens} tokens "
        f"an answer, {args.requests} answers a client, median of {args.repeats}"
    )
    heads = ["clients", "λ", "tokens/s", "first token, s", "worst"]
    lines = Table("", heads, [[*found.values()] for found in [*served, alone]]).markdown()
    return "\n".join([where, "", lines, "", *verdicts, ""])


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    args.clients = sorted(args.clients)
    alone = measure_generate(args)
    m = read_config(args.adapter).pref_dim
    if m < 2:
        raise UserError(f"{args.adapter} has {m} objectives: λ cannot differ")
    with server(args) as url:
        served = asyncio.run(measure_server(url, args, m))
    text = table(args, served, alone)
    print(f"\n{text}")
    if args.output:
        atomic_write_text(Path(args.output), text)
        atomic_write_json(Path(args.output).with_suffix(".json"), [*served, alone])


if __name__ == "__main__":
    main()
