"""The command line of supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.configs.algorithms import FinetuneConfig
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.base.finetune"
COMMAND = Program(
    FinetuneConfig,
    PROGRAM,
    "Fine-tune a causal language model on prompts and answers (the SFT stage).",
    f"""
    {PROGRAM} --model_name_or_path base/ --train_datasets supervised:1:sft.jsonl \\
      --output_dir runs/sft --lr 2e-5 --epochs 3
    """,
)


def parse_arguments(argv: Sequence[str] | None = None) -> FinetuneConfig:
    """Read and check the options."""
    return COMMAND.read(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    from safe_rlhf_panacea.base.before import SupervisedFinetuneTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    ds_train_config, _ = prepare_run(args)
    run_to_end(SupervisedFinetuneTrainer(args, ds_train_config))


if __name__ == "__main__":
    main()
