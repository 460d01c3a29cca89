"""The actor of reinforcement learning: how it is loaded, and its step on supervised text."""

from __future__ import annotations

import argparse
from typing import Any

from safe_rlhf_panacea.base.configs.constants import IGNORE_INDEX
from safe_rlhf_panacea.base.distributed import all_reduce_means
from safe_rlhf_panacea.base.log_probs import answer_log_probs
from safe_rlhf_panacea.base.losses import next_token_loss
from safe_rlhf_panacea.base.models import load_pretrained_models
from safe_rlhf_panacea.base.models.positions import check_positions
from safe_rlhf_panacea.base.setup import model_dtype


def load_actor(args: argparse.Namespace) -> tuple[Any, Any]:
    """The policy and its tokenizer, which pads on the left."""
    path = args.actor_model_name_or_path
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=args.max_length,
        padding_side="left",
        trust_remote_code=args.trust_remote_code,
        dtype=model_dtype(args),
    )
    check_positions(model, args.max_length, path)
    return model, tokenizer


def text_step(actor: Any, ptx_batch: dict[str, Any], ptx_coeff: float) -> dict[str, float]:
    """One backward pass of an engine on supervised text, weighted by ``ptx_coeff``."""
    mask = ptx_batch["attention_mask"].bool()
    labels = ptx_batch["labels"].masked_fill(~mask, IGNORE_INDEX)
    loss = next_token_loss(*answer_log_probs(actor, ptx_batch["input_ids"], labels, mask))
    actor.backward(ptx_coeff * loss)
    actor.step()
    return {f"train/{k}": v for k, v in all_reduce_means({"ptx_loss": loss}).items()}
