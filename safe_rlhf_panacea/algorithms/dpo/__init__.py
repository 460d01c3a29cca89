"""Panacea with direct preference optimisation."""

from __future__ import annotations

from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.algorithms import DPOConfig

COMMAND = TrainingProgram(
    DPOConfig,
    "safe_rlhf_panacea.algorithms.dpo",
    """
    Train one model for the whole Pareto front of several objectives, with DPO.

    A pair carries labels of its objectives (better_<objective>: 0, 1 or null), or is one of a
    data set of one objective, whose chosen response is better for that (helpful=chosen.jsonl).
    Defaults are the paper's Table 2, except that bf16, tf32 and gradient_checkpointing are
    off, so that a CPU runs; bash/panacea_dpo.sh sets them.
    """,
    """--model_name_or_path runs/sft --objectives helpful harmless
      --train_datasets pairs:1:pairs.jsonl --output_dir runs/panacea-dpo""",
    trainer="safe_rlhf_panacea.algorithms.dpo.trainer:PanaceaDPOTrainer",
    hooked="dpo",
)
parse_arguments, train, main = COMMAND.parse_arguments, COMMAND.train, COMMAND.main
