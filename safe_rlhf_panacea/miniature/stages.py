"""The miniature's trainings, with the texts of ``miniature.yaml``, run in the calling process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from safe_rlhf_panacea.base.finetune import main as sft_main
from safe_rlhf_panacea.base.values.reward import main as reward_main
from safe_rlhf_panacea.baselines.discrete_policies import grid_variants
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import PROGRAMS, train_variants
from safe_rlhf_panacea.experiments.sizes import OBJECTIVES, fill, reference_points, size_of
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.miniature.world import World, build_world, load_world

CALIBRATION = "calibration.json"
# Of shared texts in miniature.yaml.
POLICIES = {"dpo": "dpo", "ppo": "ppo as_recorded"}


@dataclass
class Miniature:
    """A run of the miniature: its folder, its world, its settings.

    Attributes:
        root: everything is written below this folder.
        seed: of the corpus and of every stage.
        settings: numbers of ``miniature.yaml``.
        log_type: ``wandb`` or ``none``, for the two Panacea stages.
        progress: whether to show bars.
        overwrite: whether a stage replaces a run that its folder holds.
        calibration: mean and standard deviation of each reward on the SFT model's samples.
    """

    root: Path
    seed: int
    settings: SimpleNamespace
    log_type: str = "none"
    progress: bool = True
    overwrite: bool = False
    calibration: list[tuple[float, float]] = field(default_factory=list)
    world: World = field(init=False)

    @property
    def sft(self) -> Path:
        """The folder of the SFT model."""
        return self.root / "sft"

    def reward(self, objective: str) -> Path:
        """The folder of an objective's reward model."""
        return self.root / f"reward-{objective}"

    def flags(self, rows: str, name: str, *extra: str) -> list[str]:
        """The command line of a training, with this run's sizes and folder.

        Args:
            rows: names of texts that ``miniature.yaml`` has under ``shared``.
            name: of the training's folder.
            extra: further words.
        """
        shared = size_of("miniature").shared
        values = {
            **vars(self.settings),
            "runs": self.root,
            "max_length": self.world.max_length,
            "reference_ppo": reference_points()["ppo"],
        }
        words = [word for row in rows.split() for word in shared[row].split()]
        return [
            *fill(words, values),
            *("--output_dir", str(self.root / name), "--seed", str(self.seed)),
            *("--log_type", "none", "--progress", str(self.progress).lower()),
            *("--overwrite", str(self.overwrite).lower(), *extra),
        ]

    # -- what the policies start from ---------------------------------------------------

    def build_world(self) -> None:
        """Write corpus, tokenizer and an untrained model."""
        self.world = build_world(self.root / "world", self.seed)

    def train_sft(self) -> None:
        """Fine-tune the untrained model on the corpus's texts."""
        sft_main(self.flags("sft", "sft"))

    def train_reward(self, objective: str) -> None:
        """Train an objective's reward model."""
        reward_main(self.flags("reward", f"reward-{objective}", "--objective", objective))

    def calibrate(self, found: Sequence[tuple[float, float]]) -> None:
        """Keep mean and standard deviation of each reward, for the stages of PPO."""
        self.calibration = list(found)
        entries = {
            name: {"mean": mean, "std": std}
            for name, (mean, std) in zip(OBJECTIVES, found, strict=True)
        }
        atomic_write_json(self.root / CALIBRATION, entries)

    def take_up(self) -> None:
        """Read what the methods above left in the folder, in place of calling them."""
        self.world = load_world(self.root / "world")
        entries = read_json(self.root / CALIBRATION)
        self.calibration = [(entries[o]["mean"], entries[o]["std"]) for o in OBJECTIVES]

    # -- policies ----------------------------------------------------------------------

    def train_panacea(
        self, algorithm: str, name: str, steps: int, extra: Sequence[str] = ()
    ) -> Path:
        """Train Panacea with ``dpo`` or ``ppo``; return the adapter's folder."""
        shown = "shown_ppo" if algorithm == "ppo" and self.settings.eval_interval else ""
        rows = f"{POLICIES[algorithm]} many {shown}"
        flags = self.flags(rows, name, "--max_steps", str(steps), "--log_type", self.log_type)
        PROGRAMS[algorithm].main([*flags, *extra])
        return self.root / name

    def baseline_config(self, algorithm: str, name: str, steps: int) -> Any:
        """The options of a baseline of rank k + 1."""
        rows = f"{POLICIES[algorithm]} rank_of_baselines"
        return PROGRAMS[algorithm].parse_arguments(
            self.flags(rows, name, "--max_steps", str(steps))
        )

    def train_soup(self, algorithm: str, name: str, steps_each: int) -> list[Path]:
        """Train Rewarded Soups' ingredients; return their folders, one for each objective."""
        config = self.baseline_config(algorithm, name, steps_each)
        return list(train_variants(algorithm, config, vertices(OBJECTIVES)).values())

    def train_discrete(
        self, algorithm: str, name: str, steps_each: int, grid: torch.Tensor
    ) -> list[Path]:
        """Train discrete policies, one per row of ``grid``; return their folders."""
        config = self.baseline_config(algorithm, name, steps_each)
        return list(train_variants(algorithm, config, grid_variants(grid)).values())

    def shuffled(self, items: Sequence[str], count: int) -> list[str]:
        """Choose ``count`` items at random, by the run's seed."""
        return random.Random(self.seed).sample(list(items), min(count, len(items)))
