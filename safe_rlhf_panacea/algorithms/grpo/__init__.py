"""Panacea with GRPO: groups of responses instead of a critic."""

from __future__ import annotations

from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.algorithms import GRPOConfig

COMMAND = TrainingProgram(
    GRPOConfig,
    "safe_rlhf_panacea.algorithms.grpo",
    """
    Train one model for the whole Pareto front of several rewards, with GRPO: groups of
    responses to each prompt, compared with each other, and no critic.

    The paper has no GRPO; the defaults are a choice.
    """,
    """--actor_model_name_or_path runs/sft
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless
      --train_datasets prompts:1:prompts.jsonl --num_return_sequences 8
      --output_dir runs/panacea-grpo""",
    trainer="safe_rlhf_panacea.algorithms.grpo.trainer:PanaceaGRPOTrainer",
)
parse_arguments, train, main = COMMAND.parse_arguments, COMMAND.train, COMMAND.main
