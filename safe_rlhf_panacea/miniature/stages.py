"""The miniature's training stages, each a call of the ordinary command line."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from safe_rlhf_panacea.algorithms.dpo.main import main as dpo_main
from safe_rlhf_panacea.algorithms.ppo.main import main as ppo_main
from safe_rlhf_panacea.base.finetune.main import main as sft_main
from safe_rlhf_panacea.base.values.reward.main import main as reward_main
from safe_rlhf_panacea.baselines.discrete_policies import train_discrete_policies
from safe_rlhf_panacea.baselines.rewarded_soups import train_soup
from safe_rlhf_panacea.experiments.settings import OBJECTIVES, REFERENCE_POINTS, MiniatureSettings
from safe_rlhf_panacea.miniature.world import World, build_world


@dataclass
class Miniature:
    """A run of the miniature: its folder, its world, its settings.

    Attributes:
        root: everything is written below this folder.
        seed: of the corpus and of every stage.
        log_type: ``wandb`` or ``none``, for the two Panacea stages.
        progress: whether to show bars.
        calibration: mean and standard deviation of each reward on the SFT model's samples.
    """

    root: Path
    seed: int
    settings: MiniatureSettings
    log_type: str = "none"
    progress: bool = True
    calibration: list[tuple[float, float]] = field(default_factory=list)
    world: World = field(init=False)

    @property
    def sft(self) -> Path:
        """The SFT model."""
        return self.root / "sft"

    def reward(self, objective: str) -> Path:
        """An objective's reward model."""
        return self.root / f"reward-{objective}"

    def flags(self, name: str, steps: int, batch: int, log_type: str = "none") -> list[str]:
        """The flags that every stage has."""
        return [
            *("--output_dir", str(self.root / name), "--seed", str(self.seed)),
            *("--max_steps", str(steps), "--max_length", str(self.world.max_length)),
            *("--per_device_train_batch_size", str(batch)),
            *("--gradient_accumulation_steps", "1"),
            *("--log_type", log_type, "--progress", str(self.progress).lower()),
        ]

    # -- what the policies start from ---------------------------------------------------

    def build_world(self) -> None:
        """Write corpus, tokenizer and an untrained model."""
        self.world = build_world(self.root / "world", self.seed)

    def train_sft(self) -> None:
        """Supervised fine-tuning of the untrained model."""
        s = self.settings
        sft_main(
            [
                *("--model_name_or_path", str(self.world.base_model)),
                *("--train_datasets", f"supervised:1:{self.world.sft}"),
                *("--lr", str(s.sft_lr), "--weight_decay", "0.01"),
                *self.flags("sft", s.sft_steps, s.sft_batch),
            ]
        )

    def train_rewards(self) -> None:
        """One reward model per objective."""
        s = self.settings
        for objective in OBJECTIVES:
            reward_main(
                [
                    *("--model_name_or_path", str(self.sft), "--objective", objective),
                    *("--train_datasets", f"pairs:1:{self.world.pairs_train}"),
                    *("--lr", str(s.reward_lr), "--weight_decay", "0.01"),
                    *self.flags(f"reward-{objective}", s.reward_steps, s.reward_batch),
                ]
            )

    # -- policies ----------------------------------------------------------------------

    def dpo_flags(self, name: str, steps: int, extra: Sequence[str] = ()) -> list[str]:
        """A DPO stage's command line."""
        s = self.settings
        return [
            *("--model_name_or_path", str(self.sft), "--objectives", *OBJECTIVES),
            *("--train_datasets", f"pairs:1:{self.world.pairs_train}"),
            *("--lr", str(s.dpo_lr), "--lora_module_name", "layers."),
            *self.flags(name, steps, s.dpo_batch, self.log_type),
            *extra,
        ]

    def ppo_flags(self, name: str, steps: int, extra: Sequence[str] = ()) -> list[str]:
        """A PPO stage's command line, with rewards standardised on the SFT model's samples."""
        s = self.settings
        stats = dict(zip(OBJECTIVES, self.calibration, strict=True))
        return [
            *("--actor_model_name_or_path", str(self.sft)),
            *("--reward_models", *(f"{o}={self.reward(o)}" for o in OBJECTIVES)),
            *("--reward_shifts", *(f"{o}={mean!r}" for o, (mean, _) in stats.items())),
            *("--reward_scales", *(f"{o}={1 / std!r}" for o, (_, std) in stats.items())),
            *("--train_datasets", f"prompts:1:{self.world.prompts_train}"),
            *("--actor_lr", str(s.ppo_lr), "--critic_lr", str(s.critic_lr)),
            *("--critic_lr_scheduler_type", "cosine"),  # as when the README's figures were made
            *("--kl_coeff", str(s.kl_coeff), "--whiten_advantages"),
            *("--update_iters", str(s.update_iters)),
            *("--per_device_prompt_batch_size", str(s.ppo_batch)),
            *self.flags(name, steps, s.ppo_batch, self.log_type),
            *extra,
        ]

    def train_panacea(
        self, algorithm: str, name: str, steps: int, extra: Sequence[str] = ()
    ) -> Path:
        """Panacea with ``dpo`` or ``ppo``; the adapter's folder."""
        s = self.settings
        scope = ["--preference_scope", s.preference_scope]
        scope += ["--preference_sampler", s.preference_sampler]
        if algorithm == "dpo":
            dpo_main(self.dpo_flags(name, steps, [*scope, *extra]))
        else:
            ppo_main(self.ppo_flags(name, steps, [*scope, *self._watching(), *extra]))
        return self.root / name

    def _watching(self) -> list[str]:
        """Evaluate a coarse front on the way, on prompts that nothing else is measured on."""
        s = self.settings
        if not s.watch_interval:
            return []
        return [
            *("--need_eval", "--eval_strategy", "steps", "--eval_interval", str(s.watch_interval)),
            *("--eval_datasets", f"prompts:{s.watch_prompts}/-1:{self.world.prompts_tune}"),
            *("--per_device_eval_batch_size", str(5 * s.watch_prompts)),
            *("--reference_point", *map(str, REFERENCE_POINTS["ppo"])),
        ]

    def baseline_flags(self, algorithm: str, name: str, steps: int) -> list[str]:
        """The command line of a baseline of rank k + 1."""
        s = self.settings
        rank = ["--lora_dim", str(s.soup_lora_dim), "--lora_scaling", str(s.soup_lora_scaling)]
        build = self.dpo_flags if algorithm == "dpo" else self.ppo_flags
        return build(name, steps, [*rank, "--log_type", "none"])

    def train_soup(self, algorithm: str, name: str, steps_each: int) -> list[Path]:
        """Rewarded Soups' ingredients, in the order of the objectives."""
        return list(
            train_soup(algorithm, self.baseline_flags(algorithm, name, steps_each)).values()
        )

    def train_discrete(
        self, algorithm: str, name: str, steps_each: int, grid: torch.Tensor
    ) -> list[Path]:
        """Discrete policies, one per row of ``grid``."""
        flags = self.baseline_flags(algorithm, name, steps_each)
        return list(train_discrete_policies(algorithm, flags, grid).values())

    def shuffled(self, items: Sequence[str], count: int) -> list[str]:
        """A seeded choice of ``count`` items."""
        return random.Random(self.seed).sample(list(items), min(count, len(items)))
