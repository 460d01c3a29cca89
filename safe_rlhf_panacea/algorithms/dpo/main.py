"""The command line of Panacea-DPO."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.base import backend
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.errors import one_line_errors

PROGRAM = "python -m safe_rlhf_panacea.algorithms.dpo"
COMMAND = Program(
    DPOConfig,
    PROGRAM,
    """
    Train one model for the whole Pareto front of several objectives, with DPO.

    A pair carries labels of its objectives (better_<objective>: 0, 1 or null), or is one of a
    data set of one objective, whose chosen response is better for that (helpful=chosen.jsonl).
    Defaults are the paper's Table 2, except that bf16, tf32 and gradient_checkpointing are
    off, so that a CPU runs; bash/panacea_dpo.sh sets them.
    """,
    f"""
    {PROGRAM} --model_name_or_path runs/sft --objectives helpful harmless \\
      --train_datasets pairs:1:pairs.jsonl --output_dir runs/panacea-dpo
    """,
)


def parse_arguments(argv: Sequence[str] | None = None) -> DPOConfig:
    """Read and check the options: this program's, or Safe-RLHF's own where that is underneath."""
    if backend().name == "safe_rlhf":
        from safe_rlhf_panacea.on_safe_rlhf import dpo_options

        return dpo_options.parse_arguments(argv)
    return COMMAND.read(argv).resolved()


def train(args: DPOConfig) -> None:
    """Train and save."""
    from safe_rlhf_panacea.algorithms.dpo.trainer import PanaceaDPOTrainer
    from safe_rlhf_panacea.algorithms.starting import prepare_run
    from safe_rlhf_panacea.base.setup import run_to_end

    run_to_end(PanaceaDPOTrainer(args, *prepare_run(args)))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    train(parse_arguments(argv))
