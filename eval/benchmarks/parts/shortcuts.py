"""What each shortcut of a forward and backward pass gains: the same pairs with it and without."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks.inputs import MODELS, job_of, make_model, pair_batches
from benchmarks.measuring import Case, Contender

TITLE = "Log-probabilities of pairs, forward and backward, with each shortcut and without"
SHARING = "prefix sharing"  # what a pair begins with is read once
VOCABULARY = "the vocabulary in blocks"  # no logits are kept for the backward pass
ATTENTION = "attention written out"  # in bfloat16, up to 512 tokens
PACKED = "packed weights"  # products with frozen weights by oneDNN, in float32
ON_CPUS = (ATTENTION, PACKED)
WHO = ("with it", "without it")


def cases(args: Namespace) -> list[Case]:
    """Every model and shortcut; pairs are as long as hh-rlhf's."""
    shortcuts = (SHARING, VOCABULARY, *(ON_CPUS if args.device == "cpu" else ()))
    imports = ["safe_rlhf_panacea.forward", "transformers.models.llama.modeling_llama"]
    found = []
    for model, shortcut in itertools.product(args.models, shortcuts):
        job = job_of(args, "shortcuts", imports, model=model, shortcut=shortcut)
        # Not another checkout's: earlier ones lack the switches.
        contenders = [Contender(who, {**job, "with": who == WHO[0]}, ours=False) for who in WHO]
        found.append(Case(f"{model}, {shortcut}", contenders))
    return found


def _turn_off(shortcut: str, model: Any) -> None:
    """Let this process and its model do without one of them."""
    from safe_rlhf_panacea.adapter import product
    from safe_rlhf_panacea.forward import PassOptions, probabilities, set_pass_options

    if shortcut == PACKED:
        product.onednn_is_faster = lambda: False
    elif shortcut == VOCABULARY:
        probabilities._is_last[model.get_output_embeddings()] = False
    else:
        sharing, attention = shortcut != SHARING, shortcut != ATTENTION
        set_pass_options(model, PassOptions(None, sharing, attention))


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A model with an adapter whose λ matters, and pairs."""
    import torch

    from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
    from safe_rlhf_panacea.forward import across, log_probs

    device = torch.device(job["device"])
    model = make_model(job["model"], job["device"]).eval()
    if job["shortcut"] == ATTENTION:
        model.bfloat16()
    adapter = inject_adapter(model, AdapterConfig(init_singular=0.01))
    if not job["with"]:
        _turn_off(job["shortcut"], model)
    vocab = MODELS[job["model"]]["vocab_size"]
    batches = pair_batches("real", job["batch"], job["longest"], vocab, 2)

    def step(watch: Any) -> None:
        batch = next(batches)
        ids, mask = (
            torch.cat([batch[f"{one}_{name}"] for one in ("better", "worse")]).to(device)
            for name in ("input_ids", "attention_mask")
        )
        for parameter in adapter.parameters():
            parameter.grad = None
        with watch.time("both passes"):
            log_probs(model, ids, mask, mask[:, 1:], across(len(ids), 2)).sum().backward()

    return step
