"""The actor of reinforcement learning: how it is loaded, and its step on supervised text."""

from __future__ import annotations

from typing import Any

import torch

from safe_rlhf_panacea.base.losses import next_token_loss
from safe_rlhf_panacea.base.setup import model_dtype
from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.distributed import all_reduce_means
from safe_rlhf_panacea.forward import answer_log_probs, answer_tokens, of_each_token
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.models.loading import check_positions


def load_actor(args: RewardedConfig) -> tuple[Any, Any]:
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


def text_labels(ptx_batch: dict[str, Any]) -> torch.Tensor:
    """The labels of supervised text, none on padding, size = (B, L)."""
    padding = ~ptx_batch["attention_mask"].bool()
    return ptx_batch["labels"].masked_fill(padding, IGNORE_INDEX)


def text_count(ptx_batch: dict[str, Any]) -> torch.Tensor:
    """How many tokens of supervised text are labelled, size = ()."""
    return answer_tokens(text_labels(ptx_batch)).sum()


def text_step(actor: Any, ptx_batch: dict[str, Any], ptx_coeff: float) -> dict[str, float]:
    """One backward pass of an engine on supervised text, weighted by ``ptx_coeff``.

    Args:
        actor: the engine.
        ptx_batch: with ``counts``, the labelled tokens of an average batch of its update, where the
            loss is a mean over that.
        ptx_coeff: the weight.

    Returns:
        ``train/ptx_loss``, the mean over this batch's tokens on all processes.
    """
    labels, mask = text_labels(ptx_batch), ptx_batch["attention_mask"].bool()
    found = answer_log_probs(actor, ptx_batch["input_ids"], labels, mask)
    actor.backward(ptx_coeff * next_token_loss(*found, ptx_batch.get("counts")))
    actor.step()
    means = all_reduce_means({"ptx_loss": -of_each_token(*found)})
    return {f"train/{name}": mean for name, mean in means.items()}
