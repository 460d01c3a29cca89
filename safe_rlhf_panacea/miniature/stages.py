"""The miniature's training stages: rows of the table, run in the process that asks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.finetune.main import main as sft_main
from safe_rlhf_panacea.base.values.reward.main import main as reward_main
from safe_rlhf_panacea.baselines.discrete_policies import grid_variants
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import PROGRAMS, train_variants
from safe_rlhf_panacea.experiments.miniature import (
    AS_RECORDED,
    DPO,
    EVAL_PPO,
    MANY,
    PPO,
    RANK_OF_BASELINES,
    REWARD,
    SFT,
)
from safe_rlhf_panacea.experiments.runner import fill
from safe_rlhf_panacea.experiments.settings import OBJECTIVES, MiniatureSettings
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.miniature.world import World, build_world, load_world

CALIBRATION = "calibration.json"
POLICIES = {"dpo": DPO, "ppo": PPO + AS_RECORDED}


@dataclass
class Miniature:
    """A run of the miniature: its folder, its world, its settings.

    Attributes:
        root: everything is written below this folder.
        seed: of the corpus and of every stage.
        log_type: ``wandb`` or ``none``, for the two Panacea stages.
        progress: whether to show bars.
        overwrite: whether a stage replaces a run that its folder holds.
        calibration: mean and standard deviation of each reward on the SFT model's samples.
    """

    root: Path
    seed: int
    settings: MiniatureSettings
    log_type: str = "none"
    progress: bool = True
    overwrite: bool = False
    calibration: list[tuple[float, float]] = field(default_factory=list)
    world: World = field(init=False)

    @property
    def sft(self) -> Path:
        """The SFT model."""
        return self.root / "sft"

    def reward(self, objective: str) -> Path:
        """An objective's reward model."""
        return self.root / f"reward-{objective}"

    def flags(self, rows: str, name: str, *extra: str) -> list[str]:
        """The command line of rows of the table, with this run's sizes and folder."""
        values = {**vars(self.settings), "runs": self.root, "max_length": self.world.max_length}
        return [
            *fill(rows, values),
            *("--output_dir", str(self.root / name), "--seed", str(self.seed)),
            *("--log_type", "none", "--progress", str(self.progress).lower()),
            *("--overwrite", str(self.overwrite).lower(), *extra),
        ]

    # -- what the policies start from ---------------------------------------------------

    def build_world(self) -> None:
        """Write corpus, tokenizer and an untrained model."""
        self.world = build_world(self.root / "world", self.seed)

    def train_sft(self) -> None:
        """Supervised fine-tuning of the untrained model."""
        sft_main(self.flags(SFT, "sft"))

    def train_reward(self, objective: str) -> None:
        """An objective's reward model."""
        reward_main(self.flags(REWARD, f"reward-{objective}", "--objective", objective))

    def calibrate(self, found: Sequence[tuple[float, float]]) -> None:
        """Keep mean and standard deviation of each reward, for the stages of PPO."""
        self.calibration = list(found)
        entries = {
            name: {"mean": mean, "std": std}
            for name, (mean, std) in zip(OBJECTIVES, found, strict=True)
        }
        atomic_write_json(self.root / CALIBRATION, entries)

    def take_up(self) -> None:
        """What all of the above left."""
        self.world = load_world(self.root / "world")
        entries = read_json(self.root / CALIBRATION)
        self.calibration = [(entries[o]["mean"], entries[o]["std"]) for o in OBJECTIVES]

    # -- policies ----------------------------------------------------------------------

    def policy_flags(self, algorithm: str, name: str, steps: int, rows: str = "") -> list[str]:
        """The command line of a stage of ``dpo`` or ``ppo``, with further rows."""
        whole = f"{POLICIES[algorithm]} --max_steps {steps} {rows}"
        return self.flags(whole, name)

    def train_panacea(
        self, algorithm: str, name: str, steps: int, extra: Sequence[str] = ()
    ) -> Path:
        """Panacea with ``dpo`` or ``ppo``; the adapter's folder."""
        shown = algorithm == "ppo" and self.settings.eval_interval
        flags = self.policy_flags(algorithm, name, steps, MANY + (EVAL_PPO if shown else ""))
        PROGRAMS[algorithm].main([*flags, "--log_type", self.log_type, *extra])
        return self.root / name

    def baseline_config(self, algorithm: str, name: str, steps: int) -> Any:
        """The options of a baseline of rank k + 1."""
        flags = self.policy_flags(algorithm, name, steps, RANK_OF_BASELINES)
        return PROGRAMS[algorithm].parse_arguments(flags)

    def train_soup(self, algorithm: str, name: str, steps_each: int) -> list[Path]:
        """Rewarded Soups' ingredients, in the order of the objectives."""
        config = self.baseline_config(algorithm, name, steps_each)
        return list(train_variants(algorithm, config, vertices(OBJECTIVES)).values())

    def train_discrete(
        self, algorithm: str, name: str, steps_each: int, grid: torch.Tensor
    ) -> list[Path]:
        """Discrete policies, one per row of ``grid``."""
        config = self.baseline_config(algorithm, name, steps_each)
        return list(train_variants(algorithm, config, grid_variants(grid)).values())

    def shuffled(self, items: Sequence[str], count: int) -> list[str]:
        """A seeded choice of ``count`` items."""
        return random.Random(self.seed).sample(list(items), min(count, len(items)))
