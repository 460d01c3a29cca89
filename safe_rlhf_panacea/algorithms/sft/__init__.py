"""Panacea with supervised fine-tuning."""

from __future__ import annotations

from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.algorithms import SFTConfig

COMMAND = TrainingProgram(
    SFTConfig,
    "safe_rlhf_panacea.algorithms.sft",
    """
    Train one model for the whole Pareto front of several objectives, with supervised text.

    Every objective has data sets of its own: J_i = E[log π(y|x)] over them (the SFT objective
    of the paper's second version). A data set under several names counts for all of them,
    and is read once. Of pairs, an objective learns the responses that its labels prefer.
    """,
    """--model_name_or_path runs/sft
      --train_datasets helpful=supervised:1:a.jsonl harmless=supervised:1:b.jsonl
      --output_dir runs/panacea-sft""",
    trainer="safe_rlhf_panacea.algorithms.sft.trainer:PanaceaSFTTrainer",
)
parse_arguments, train, main = COMMAND.parse_arguments, COMMAND.train, COMMAND.main
