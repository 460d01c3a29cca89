"""Panacea with reinforcement learning from several rewards."""

from __future__ import annotations

from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.algorithms import PPOConfig

COMMAND = TrainingProgram(
    PPOConfig,
    "safe_rlhf_panacea.algorithms.ppo",
    """
    Train one model for the whole Pareto front of several rewards, with PPO.

    Defaults are the paper's Table 1, except that bf16, tf32, actor_gradient_checkpointing and
    critic_gradient_checkpointing are off, so that a CPU runs; bash/panacea_ppo.sh sets them.
    """,
    """--actor_model_name_or_path runs/sft
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless
      --reward_scales harmless=5 --train_datasets prompts:1:prompts.jsonl
      --output_dir runs/panacea-ppo""",
    trainer="safe_rlhf_panacea.algorithms.ppo.trainer:PanaceaPPOTrainer",
    hooked="ppo",
)
parse_arguments, train, main = COMMAND.parse_arguments, COMMAND.train, COMMAND.main
