"""vLLM's rollouts beside the package's own loop, and what handing over an adapter costs.

The model is the folder in PANACEA_SMALL_MODEL, or one of random weights. vLLM's Python is found as
``--rollout_server auto`` finds it: PANACEA_VLLM_PYTHON, this one, or .venv-vllm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from part import MODELS, Row, device_of, run_part
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from safe_rlhf_panacea.adapter import AdapterConfig, PanaceaAdapter, inject_adapter
from safe_rlhf_panacea.forward import SamplingConfig, generate, log_probs, response_tokens
from safe_rlhf_panacea.preference_sampler import PreferenceSampler
from safe_rlhf_panacea.rollouts.checks import Needed, start_server
from safe_rlhf_panacea.rollouts.completions import Asked, Pool, model_name
from safe_rlhf_panacea.rollouts.engine import NAME
from safe_rlhf_panacea.rollouts.server import Server

MODEL = "PANACEA_SMALL_MODEL"
ROWS = (1, 8, 32)  # and as many λ
PROMPT, REPEATS = 32, 3
CLOSE = 0.05  # nats on average, in half precision
TINY = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}


def load(folder: Path, tiny: bool) -> tuple[str, Any]:
    """The base model's folder, and the model."""
    path = os.environ.get(MODEL)
    if path is None or tiny:
        path = str(folder / "base")
        shape = {**MODELS["tiny"], **TINY} if tiny else MODELS["1b"]
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
        model.save_pretrained(path)
        words = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="0"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(path)
    dtype = torch.bfloat16 if device_of() == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return path, model.to(device_of()).eval()


def adapted(model: Any, base: str) -> PanaceaAdapter:
    """An adapter that does something at every λ."""
    config = AdapterConfig(objectives=("helpful", "harmless"), base_model=base, lora_scaling=64.0)
    adapter = inject_adapter(model, config)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            if name.endswith(("sigma", "lora_s")):
                parameter.normal_(std=0.1)
    return adapter


def seconds_of(action: Callable[..., Any], *inputs: Any) -> tuple[float, float]:
    """Of the first call, and the median of a few calls after it."""
    seconds = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        action(*inputs)
        seconds.append(time.perf_counter() - begin)
    return seconds[0], statistics.median(seconds[1:])


def measured(
    model: Any, adapter: PanaceaAdapter, pool: Pool, length: int, published: Path
) -> Iterator[Row]:
    """Rows per second of both, and what a version costs that is written into a folder."""
    device, config = next(model.parameters()).device, SamplingConfig(PROMPT + length, [], 0)
    draw = torch.Generator().manual_seed(0)
    sampler = PreferenceSampler(2, scope="sample", seed=0)

    def served(prompts: torch.Tensor, names: list[str]) -> Any:
        seeds = [1] * len(names)
        return Asked(pool, names, prompts, torch.ones_like(prompts), seeds, config).collect()

    def own(prompts: torch.Tensor, preference: torch.Tensor) -> Any:
        with adapter.at(preference):
            return generate(model, prompts, torch.ones_like(prompts), config)

    for rows in ROWS:
        size = (rows, PROMPT)
        prompts = torch.randint(1, min(64, model.config.vocab_size), size, generator=draw)
        prompts, preference = prompts.to(device), sampler.sample(rows).to(device)
        begin = time.perf_counter()
        folder = published / f"00000000-{rows}"
        adapter.save(folder)
        written, version = time.perf_counter() - begin, f"{NAME}/{folder.name}"
        names = [model_name(version, adapter.config.objectives, row) for row in preference.cpu()]
        first, again = seconds_of(served, prompts, names)
        _, alone = seconds_of(own, prompts, preference)
        sequences, mask, theirs = served(prompts, names)
        with adapter.at(preference), torch.no_grad():
            ours = log_probs(model, sequences, mask, response_tokens(mask, PROMPT - 1))
        distance = float((ours - theirs)[:, PROMPT - 1 :].abs().mean())
        yield {
            "rows, each at its λ": rows,
            "tokens": length,
            "own, rows/s": rows / alone,
            "vLLM, rows/s": rows / again,
            "vLLM with new LoRAs, rows/s": rows / first,
            "adapter, bytes": sum(file.stat().st_size for file in folder.iterdir()),
            "written in, s": written,
            "nats apart": distance,
            "right": distance < CLOSE,
        }


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """Everything with one model and one server."""
    length = 8 if args.tiny else 64
    with tempfile.TemporaryDirectory() as folder:
        base, model = load(Path(folder), args.tiny)
        adapter = adapted(model, base)
        published = Path(folder) / "published"
        adapters = f"{NAME}={published}"
        needed = Needed(base, adapters, adapter.config.rank, 2 * (PROMPT + length), max(ROWS))
        flags = ["--gpu-memory-utilization", "0.5"] if device_of() == "cuda" else []
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        url = start_server(needed, Path(folder) / "server", dtype, [*flags, "--enforce-eager"]).url
        yield from measured(model, adapter, Pool([Server(url)]), length, published)


if __name__ == "__main__":
    raise SystemExit(run_part("vllm", "Rollouts by the package's loop and by vLLM", rows))
