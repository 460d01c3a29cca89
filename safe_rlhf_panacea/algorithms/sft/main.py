"""The command line of Panacea-SFT."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.configs.algorithms import SFTConfig
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.sft"
COMMAND = Program(
    SFTConfig,
    PROGRAM,
    """
    Train one model for the whole Pareto front of several objectives, with supervised text.

    Every objective has data sets of its own: J_i = E[log π(y|x)] over them (the SFT objective
    of the paper's second version). A data set under several names counts for all of them,
    and is read once. Of pairs, an objective learns the responses that its labels prefer.
    """,
    f"""
    {PROGRAM} --model_name_or_path runs/sft \\
      --train_datasets helpful=supervised:1:a.jsonl harmless=supervised:1:b.jsonl \\
      --output_dir runs/panacea-sft
    """,
)


def parse_arguments(argv: Sequence[str] | None = None) -> SFTConfig:
    """Read and check the options."""
    return COMMAND.read(argv).resolved()


def train(args: SFTConfig) -> None:
    """Train and save."""
    from safe_rlhf_panacea.algorithms.sft.trainer import PanaceaSFTTrainer
    from safe_rlhf_panacea.base.setup import prepare_run, run_to_end

    ds_train_config, _ = prepare_run(args)
    run_to_end(PanaceaSFTTrainer(args, ds_train_config))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    train(parse_arguments(argv))
