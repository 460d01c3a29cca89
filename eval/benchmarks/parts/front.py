"""Responses at N λ: all in one batch with a λ for each row, or a pass for each λ."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import Case, Contender
from benchmarks.sizes import MODELS

TITLE = "Responses at several λ"
WAYS = ("one pass", "a pass for each λ", "a pass for each λ, merged")


def cases(args: Namespace) -> list[Case]:
    """Every model; ``args.batch`` prompts at 11 λ."""
    imports = ["safe_rlhf_panacea.adapter", "safe_rlhf_panacea.forward.generation"]
    imports.append("transformers.models.llama.modeling_llama")
    found = []
    for model in args.models:
        job = dict(part="front", device=args.device, model=model, preferences=11, imports=imports)
        job |= dict(prompts=args.batch, longest=args.longest)
        label = f"{model}, {args.batch} prompts, {job['preferences']} λ"
        found.append(Case(label, [Contender(way, {**job, "way": way}) for way in WAYS]))
    return found


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A model with an adapter whose λ matters, prompts, and the λ."""
    import torch

    from benchmarks.parts.models import make_model
    from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter

    try:
        from safe_rlhf_panacea.forward import SamplingConfig, generate
    except ImportError:  # an earlier checkout, measured beside this one
        from safe_rlhf_panacea.forward.generation import SamplingConfig
        from safe_rlhf_panacea.forward.generation import sample as generate

    model = make_model(job["model"], job["device"]).eval()
    adapter = inject_adapter(model, AdapterConfig(init_singular=0.01))
    vocab, count = MODELS[job["model"]]["vocab_size"], job["preferences"]
    first = torch.linspace(0, 1, count, device=job["device"])
    grid = torch.stack([first, 1 - first], dim=-1)  # size = (N, 2)
    size = (job["prompts"], job["longest"] // 4)
    prompts = torch.randint(4, vocab, size, device=job["device"])
    # No token ends a response: all ways draw equally many.
    config = SamplingConfig(max_length=job["longest"], eos_token_id=vocab, pad_token_id=0)

    def draw(ids: torch.Tensor, copies: int = 1) -> None:
        generate(model, ids, torch.ones_like(ids), config, noise_copies=copies)

    def work(watch: Any) -> None:
        with watch.time("all λ"):
            if job["way"] == WAYS[0]:
                with adapter.at(grid.repeat_interleave(len(prompts), dim=0)):
                    draw(prompts.repeat(count, 1), count)
                return
            held = adapter.at if job["way"] == WAYS[1] else adapter.merged
            for preference in grid:
                with held(preference):
                    draw(prompts)

    return work
