"""The command line of supervised fine-tuning."""

from __future__ import annotations

from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.algorithms import FinetuneConfig

COMMAND = TrainingProgram(
    FinetuneConfig,
    "safe_rlhf_panacea.base.finetune",
    "Fine-tune a causal language model on prompts and answers (the SFT stage).",
    """--model_name_or_path base/ --train_datasets supervised:1:sft.jsonl
      --output_dir runs/sft --lr 2e-5 --epochs 3""",
    trainer="safe_rlhf_panacea.base.supervised:SupervisedFinetuneTrainer",
)
parse_arguments, train, main = COMMAND.parse_arguments, COMMAND.train, COMMAND.main

if __name__ == "__main__":
    main()
