"""The command line of Panacea-PPO."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.base import backend
from safe_rlhf_panacea.configs.algorithms import PPOConfig
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.ppo"
COMMAND = Program(
    PPOConfig,
    PROGRAM,
    """
    Train one model for the whole Pareto front of several rewards, with PPO.

    Defaults are the paper's Table 1, except that bf16, tf32, actor_gradient_checkpointing and
    critic_gradient_checkpointing are off, so that a CPU runs; bash/panacea_ppo.sh sets them.
    """,
    f"""
    {PROGRAM} --actor_model_name_or_path runs/sft \\
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
      --reward_scales harmless=5 --train_datasets prompts:1:prompts.jsonl \\
      --output_dir runs/panacea-ppo
    """,
)


def parse_arguments(argv: Sequence[str] | None = None) -> PPOConfig:
    """Read and check the options: this program's, or Safe-RLHF's own where that is underneath."""
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.on_safe_rlhf import ppo_options

        return ppo_options.parse_arguments(argv)
    return COMMAND.read(argv).resolved()


def train(args: PPOConfig) -> None:
    """Train and save."""
    from safe_rlhf_panacea.algorithms.ppo.trainer import PanaceaPPOTrainer
    from safe_rlhf_panacea.algorithms.starting import prepare_run
    from safe_rlhf_panacea.base.setup import run_to_end

    run_to_end(PanaceaPPOTrainer(args, *prepare_run(args)))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    train(parse_arguments(argv))
