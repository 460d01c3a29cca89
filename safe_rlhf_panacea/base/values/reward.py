"""The command line of reward modelling."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.configs.algorithms import RewardConfig
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.base.values.reward"
COMMAND = Program(
    RewardConfig,
    PROGRAM,
    "Train a reward model for one objective on labelled pairs (Bradley-Terry).",
    f"""
    {PROGRAM} --model_name_or_path runs/sft --objective helpful \\
      --train_datasets pairs:1:pairs.jsonl --output_dir runs/reward-helpful
    """,
)


def parse_arguments(argv: Sequence[str] | None = None) -> RewardConfig:
    """Read and check the options."""
    return COMMAND.read(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    args = parse_arguments(argv)
    from safe_rlhf_panacea.base.before import RewardTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    ds_train_config, _ = prepare_run(args)
    run_to_end(RewardTrainer(args, ds_train_config))


if __name__ == "__main__":
    main()
