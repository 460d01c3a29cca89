"""GRPO for two rewards that are rules, positivity and conciseness: what its runs share.

``make small`` trains Panacea so; the real fronts (``real.py``) train Rewarded Soups as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RuleSettings:
    """What a training uses; chosen on the prompts of the split ``tune``.

    Attributes:
        steps: of training, on a rollout each.
        prompts: in a rollout, with ``responses`` to each.
        answer: the longest response, in tokens.
        floor: a response with fewer tokens is as bad as one of ``answer`` tokens.
        eval_interval: steps between the fronts that are shown on the way.
        grid_step: of λ in the evaluation at the end.
    """

    steps: int = 40
    prompts: int = 8
    responses: int = 4
    answer: int = 32
    floor: int = 8
    lr: float = 2e-3
    kl_coeff: float = 0.15
    lora_dim: int = 8
    lora_scaling: float = 512.0
    eval_interval: int = 20
    grid_step: float = 0.25


SMOKE = RuleSettings(steps=2, prompts=2, responses=2, answer=16, eval_interval=2, grid_step=1.0)

REWARDS = """
    --reward_models positive=safe_rlhf_panacea.reward_functions:positive
    concise=safe_rlhf_panacea.reward_functions:concise?{concise}"""
# Advantages are normalised, so that what suits these rewards suits others.
LEARNING = """
    --update_iters 1 --advantage normalize_then_sum --kl_in loss --kl_coeff {kl_coeff}
    --actor_lr {lr} --actor_lr_scheduler_type constant --actor_lr_warmup_ratio 0
    --actor_weight_decay 0"""
GRPO = f"""
    --actor_model_name_or_path {{model}} --chat_template auto {REWARDS}
    --train_datasets prompts:1:{{root}}/prompts-train.jsonl --max_length {{max_length}}
    --per_device_prompt_batch_size {{prompts}} --num_return_sequences {{responses}}
    --per_device_train_batch_size {{rows}} --gradient_accumulation_steps 1
    {LEARNING} --actor_gradient_checkpointing false --bf16 {{bf16}}"""
PANACEA = """ --max_steps {steps} --lora_dim {lora_dim} --lora_scaling {lora_scaling}
    --preference_scope sample --preference_sampler stratified """
# On the way, on prompts that nothing else is measured on.
EVALUATED = """ --need_eval true --eval_strategy steps --eval_interval {eval_interval}
    --eval_datasets prompts:8/-1:{root}/prompts-tune.jsonl --per_device_eval_batch_size 40"""
EVALUATION = f"""
    --datasets prompts:1:{{root}}/prompts-eval.jsonl --cluster_column topic {REWARDS}
    --max_length {{max_length}} --grid_step {{grid_step}} --batch_size 8 --bf16 {{bf16}}"""


def concise_options(settings: RuleSettings) -> dict[str, float]:
    """Of the rule: 1 at the floor, falling below it by 1 with every ``floor`` tokens.

    The worst value, that of answers below the floor, is beyond what the longest answer has:
    after a short prompt there is room for a few tokens more.
    """
    floor = float(settings.floor)
    worst = 1 - settings.answer / floor
    return {"max_length": floor, "min_length": floor, "min_reward": worst}


def values(settings: RuleSettings) -> Mapping[str, Any]:
    """For the curly brackets, but for the model, its longest prompt, and the root."""
    options = concise_options(settings).items()
    return {
        **vars(settings),
        "rows": settings.prompts * settings.responses,
        "concise": ",".join(f"{name}={value:g}" for name, value in options),
    }
