"""Short trainings with the ordinary trainers, and what they did at every step.

``python -m tests.regression.training ALGORITHM FILE FLAGS...`` is one process of such a training,
for torchrun; the first process writes the numbers to FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.base.setup import prepare_run
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.runs.divergence import gradient_norm
from tests.regression.tiny_world import MAX_LENGTH, OBJECTIVES, fill

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
BATCH = 8
# 20 steps at this rate leave the start, at which σ and s are 0, far behind.
RATE = "5e-3"
LOGGED = {
    "dpo": ("loss", "loss_helpful", "loss_harmless", "better_sample_reward", "reward_margin", "lr"),
    "ppo": (
        *("actor_loss", "reward_critic_loss", "reward", "reward_helpful", "reward_harmless"),
        *("reward_with_kl_penalty", "reward_advantage", "reward_return", "reward_value"),
        *("kl_divergence", "mean_generated_length", "actor_lr", "reward_critic_lr"),
    ),
}


def common_flags(algorithm):
    """What all trainings with an algorithm share, whatever their folders."""
    flags = [
        *("--max_length", str(MAX_LENGTH), "--max_steps", str(STEPS)),
        *("--per_device_train_batch_size", str(BATCH), "--gradient_accumulation_steps", "1"),
        *("--log_type", "none", "--progress", "false", "--seed", "42"),
    ]
    if algorithm == "dpo":
        return ["--objectives", *OBJECTIVES, "--scale_coeff", "0.1", "--lr", RATE, *flags]
    return [
        *("--reward_signs", "harmless=-1", "--reward_scales", "harmless=2"),
        *("--reward_shifts", "helpful=0.5", "--kl_coeff", "0.02"),
        *("--actor_lr", RATE, "--critic_lr", RATE),
        *("--per_device_prompt_batch_size", str(BATCH), *flags),
    ]


def flags_of(algorithm, world, output, extra, *, even=False):
    """A whole command line; of a flag given twice the last one counts.

    With ``even`` any cut of the data into batches is alike: both objectives label every pair, and
    all prompts have one length.
    """
    if algorithm == "dpo":
        data = world.pairs if even else world.gaps
        paths = ["--model_name_or_path", str(world.base), "--train_datasets", f"pairs:1:{data}"]
    else:
        data = world.even_prompts if even else world.prompts
        models = [f"{name}={folder}" for name, folder in world.rewards.items()]
        paths = ["--actor_model_name_or_path", str(world.base), "--reward_models", *models]
        # The parser's default when the references were recorded.
        paths += ["--train_datasets", f"prompts:1:{data}", "--critic_lr_scheduler_type", "cosine"]
    return [*paths, "--output_dir", str(output), *common_flags(algorithm), *extra]


class StepNotes:
    """Notes what a trainer does, step by step, as series of numbers by name."""

    def __init__(self, logged, objectives):
        self.logged = logged
        self.objectives = objectives
        self.series = defaultdict(list)

    def stepped(self, info, engines):
        """Note losses and λ, and at an update the gradients' norms before clipping."""
        for name in self.logged:
            self.series[name].append(float(info[f"train/{name}"]))
        for name in self.objectives:
            self.series[f"λ_{name}"].append(float(info[f"train/preference_{name}"]))
        for name, engine in engines.items():
            if (norm := gradient_norm(engine)) is not None:
                self.series[f"gradient norm of the {name}"].append(norm)

    def rolled_out(self, rl_batch):
        """Note Σ position · id of all that was sampled, which tells different tokens apart."""
        tokens = (rl_batch["input_ids"] * rl_batch["attention_mask"]).cpu()
        positions = torch.arange(1, tokens.numel() + 1).view_as(tokens)
        self.series["tokens"].append(float((tokens * positions).sum()))


class DealtPreferences:
    """A source of λ that deals rows from one list, however many are asked for at a time.

    The trainer's own sampler draws anew for every batch, so that one batch of 16 and two of 8 see
    other λ by design. With these, both see the same.
    """

    fixed, shared, for_labels = None, False, False

    def __init__(self, rows, seed=0):
        first = np.random.RandomState(seed).random_sample(rows).astype(np.float32)
        self.rows = torch.from_numpy(np.stack([first, 1 - first], axis=-1))
        self.next = 0

    def draw(self, batch_size, *, begins_update=True, labelled=None):
        del begins_update, labelled
        start, self.next = self.next, self.next + batch_size
        return self.rows[start : self.next]


def make_trainer(algorithm, flags):
    """Panacea's trainer, whose U and V come from NumPy's frozen stream and not from torch's."""
    if algorithm == "dpo":
        from safe_rlhf_panacea.algorithms.dpo import parse_arguments
        from safe_rlhf_panacea.algorithms.dpo.trainer import PanaceaDPOTrainer as Trainer
    else:
        from safe_rlhf_panacea.algorithms.ppo import parse_arguments
        from safe_rlhf_panacea.algorithms.ppo.trainer import PanaceaPPOTrainer as Trainer

    class FixedStart(Trainer):
        def init_engines(self):  # before ZeRO copies the parameters
            for seed, adapter in enumerate(self.panacea.adapters.values()):
                fill(adapter.named_parameters().items(), 10 + seed, adapter.config.init_std)
            super().init_engines()

        def rollout(self, prompt_only_batch):
            rl_batches = super().rollout(prompt_only_batch)
            for rl_batch in rl_batches:
                self.notes.rolled_out(rl_batch)
            return rl_batches

        def check_step(self, info):
            super().check_step(info)
            self.notes.stepped(info, self.checkpoint_engines())

    args = parse_arguments(flags)
    return FixedStart(args, *prepare_run(args))


@dataclass(frozen=True)
class Trace:
    """What a training did: one number per step by name (of norms one per update), its folder."""

    series: dict[str, list[float]]
    folder: Path


def train(algorithm, flags, *, dealt=False):
    """Train on one thread and note every step; ``dealt`` takes λ from ``DealtPreferences``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = make_trainer(algorithm, flags)
    if dealt:
        rows = trainer.total_steps * trainer.args.per_device_train_batch_size
        trainer.panacea.source = DealtPreferences(rows)
    trainer.notes = notes = StepNotes(LOGGED[algorithm], trainer.panacea.objectives)
    trainer.train()
    trainer.save()
    trainer.logger.close()
    torch.set_num_threads(threads)
    return Trace(dict(notes.series), Path(trainer.args.output_dir))


def train_in_processes(algorithm, flags, count, output, python=sys.executable):
    """The same in several processes under torchrun."""
    file = output.with_suffix(".json")
    command = [python, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(count), "-m", "tests.regression.training"]
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, algorithm, str(file), *flags],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Trace(json.loads(file.read_text(encoding="utf-8")), output)


def main():
    algorithm, path, *flags = sys.argv[1:]
    series = train(algorithm, flags).series
    if is_main_process():
        atomic_write_json(path, series)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
