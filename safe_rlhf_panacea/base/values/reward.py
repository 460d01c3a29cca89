"""The command line of reward modelling."""

from __future__ import annotations

from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.algorithms import RewardConfig

COMMAND = TrainingProgram(
    RewardConfig,
    "safe_rlhf_panacea.base.values.reward",
    "Train a reward model for one objective on labelled pairs (Bradley-Terry).",
    """--model_name_or_path runs/sft --objective helpful
      --train_datasets pairs:1:pairs.jsonl --output_dir runs/reward-helpful""",
    trainer="safe_rlhf_panacea.base.supervised:RewardTrainer",
)
parse_arguments, train, main = COMMAND.parse_arguments, COMMAND.train, COMMAND.main

if __name__ == "__main__":
    main()
