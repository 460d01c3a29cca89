"""The command line of Panacea-GRPO."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.configs.algorithms import GRPOConfig
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.grpo"
COMMAND = Program(
    GRPOConfig,
    PROGRAM,
    """
    Train one model for the whole Pareto front of several rewards, with GRPO: groups of
    responses to each prompt, compared with each other, and no critic.

    The paper has no GRPO; the defaults are a choice.
    """,
    f"""
    {PROGRAM} --actor_model_name_or_path runs/sft \\
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
      --train_datasets prompts:1:prompts.jsonl --num_return_sequences 8 \\
      --output_dir runs/panacea-grpo
    """,
)


def parse_arguments(argv: Sequence[str] | None = None) -> GRPOConfig:
    """Read and check the options."""
    return COMMAND.read(argv).resolved()


def train(args: GRPOConfig) -> None:
    """Train and save."""
    from safe_rlhf_panacea.algorithms.grpo.trainer import PanaceaGRPOTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    run_to_end(PanaceaGRPOTrainer(args, *prepare_run(args)))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    train(parse_arguments(argv))
