"""The command line of the quickstart."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from safe_rlhf_panacea.base.arguments import ArgumentParser, add_flag, filled, seed_int
from safe_rlhf_panacea.base.run_record import prepare_output_dir, write_run_record
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.experiments.settings import QUICK, SMOKE
from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.miniature.pipeline import Pipeline
from safe_rlhf_panacea.miniature.report import draw_fronts, render, render_tables
from safe_rlhf_panacea.miniature.stages import Miniature
from safe_rlhf_panacea.printing import quiet_libraries, say
from safe_rlhf_panacea.run_folder import point_latest

PROGRAM = "python -m safe_rlhf_panacea.miniature"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        """
        From nothing to two Pareto fronts, in minutes on a CPU and with no downloads.

        Writes a corpus, trains a base model, one reward model per objective, Panacea and
        Rewarded Soups with DPO and with PPO, and ends with pictures, tables and results.json.
        """,
        f"{PROGRAM} --output_dir runs/mine --seed 3",
    )
    parser.add_argument("--output_dir", type=filled, help="default: runs/quickstart-<time>")
    parser.add_argument("--seed", type=seed_int, default=42)
    add_flag(parser, "--overwrite", False, "replace a run that the folder already holds")
    add_flag(parser, "--wandb", True, "log the Panacea stages to wandb, offline")
    add_flag(parser, "--progress", True, "show progress bars")
    add_flag(parser, "--smoke", False, "a few steps of everything, to see that it runs")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the miniature from start to end."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    root = Path(args.output_dir or f"runs/quickstart-{stamp}")
    prepare_output_dir(root, overwrite=args.overwrite)
    write_run_record(root, vars(args), {"program": PROGRAM})
    miniature = Miniature(
        root=root,
        seed=args.seed,
        settings=SMOKE if args.smoke else QUICK,
        log_type="wandb" if args.wandb else "none",
        progress=args.progress,
        overwrite=args.overwrite,
    )
    pipeline = Pipeline(miniature)
    results = pipeline.run()
    draw_fronts(root, pipeline.experiments)
    point_latest(root)
    page = render(root, results)
    atomic_write_text(root / "report.txt", f"{page}\n\n{render_tables(results)}\n")
    say(f"\nTook {results['seconds']['total']:.0f} s.\n\n{page}")
