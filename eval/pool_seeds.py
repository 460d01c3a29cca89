"""One front out of several seeds': means over the seeds, prompt by prompt or pair by pair.

What it writes is an evaluation's folder for ``evaluation.compare`` and the figures: intervals
there are over prompts or pairs, with the seeds' luck averaged in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.base.arguments import ArgumentParser, add_flag, filled
from safe_rlhf_panacea.base.run_record import (
    check_own_output,
    prepare_output_dir,
    write_run_record,
)
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.bootstrap import same_units
from safe_rlhf_panacea.fronts.comparison_notes import SETTINGS
from safe_rlhf_panacea.fronts.front import Front, grid_points
from safe_rlhf_panacea.fronts.indicators import summarize
from safe_rlhf_panacea.fronts.likelihood_front import labelled_statistics
from safe_rlhf_panacea.fronts.results import FRONT_FILE, front_of, read_result
from safe_rlhf_panacea.fronts.units import VALUES_FILE, Units, read_units, write_units
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.run_folder import RUN_FILE, read_record
from safe_rlhf_panacea.show.tables import front_table, indicator_table

PROGRAM = "python eval/pool_seeds.py"
SAME = (
    *("kind", "method", "objectives", "axis_labels"),
    *("aggregation", "fixed_scaling", "step"),
)


def read_seeds(folders: Sequence[str]) -> tuple[list[dict[str, Any]], list[Units]]:
    """Results and values of the same prompts or pairs at the same λ.

    Raises:
        UserError: they are of different things, or a folder has no values.
    """
    results = [read_result(folder) for folder in folders]
    grid = front_of(results[0]).preferences
    found = []
    for folder, result in zip(folders, results, strict=True):
        for key in SAME:
            if result.get(key) != results[0].get(key):
                raise UserError(f"{folder} and {folders[0]} differ in their {key}")
        own = front_of(result).preferences
        if own.shape != grid.shape or not np.allclose(own, grid):
            raise UserError(f"{folder} and {folders[0]} were evaluated at different λ")
        if (units := read_units(Path(folder), front_of(result))) is None:
            raise UserError(f"{folder} has no {VALUES_FILE}: evaluate it anew")
        found.append(units)
        if not same_units([found[0], units]):
            raise UserError(f"{folder} and {folders[0]} are of different prompts or pairs")
    return results, found


def common_settings(folders: Sequence[str]) -> dict[str, Any]:
    """The flags that decide what the numbers mean, which all evaluations must share.

    Raises:
        UserError: they differ in one.
    """
    paths = [Path(folder) / RUN_FILE for folder in folders]
    records = [read_record(path) if path.is_file() else {} for path in paths]
    flags = [record.get("args") or {} for record in records]
    names = [name for name in SETTINGS if name != "seed" and any(name in own for own in flags)]
    for folder, own in zip(folders, flags, strict=True):
        if differ := [name for name in names if own.get(name) != flags[0].get(name)]:
            raise UserError(f"{folder} and {folders[0]} differ in --{differ[0]} (see {RUN_FILE})")
    return {name: flags[0].get(name) for name in names}


def pooled_front(results: Sequence[dict[str, Any]], values: torch.Tensor) -> Front:
    """The points of the means.

    Args:
        results: of the seeds.
        values: means over the seeds, size = (N, U, m).
    """
    fronts = [front_of(result) for result in results]
    means, spreads, counts = labelled_statistics(values)
    grid = torch.from_numpy(fronts[0].preferences)
    points = grid_points(grid, means, spreads / counts.sqrt())
    for n, point in enumerate(points):
        own = [front.points[n] for front in fronts]
        if all(one.kl is not None and one.kl_error is not None for one in own):
            point.kl = float(np.mean([one.kl for one in own]))
            # The prompts are the same ones: more seeds do not make more of them.
            point.kl_error = float(np.mean([one.kl_error for one in own]))
    metadata = {**results[0]["metadata"], "seeds": len(results)}
    return Front(fronts[0].objectives, points, results[0]["label"], metadata)


def pooled_result(results: Sequence[dict[str, Any]], values: torch.Tensor) -> dict[str, Any]:
    """As it goes into ``front.json``; costs are means, the reference point the lowest of all."""
    front = pooled_front(results, values)
    point = np.min([result["reference_point"] for result in results], axis=0).tolist()
    costs: dict[str, Any] = {**results[0]["cost"]}
    seconds = [result["cost"]["training_seconds"] for result in results]
    costs["training_seconds"] = None if None in seconds else float(np.mean(seconds))
    base = None
    if all(result["base"] for result in results):
        rows = [[result["base"][key] for result in results] for key in results[0]["base"]]
        base = dict(zip(results[0]["base"], np.mean(rows, axis=1).tolist(), strict=True))
    changed = {"cost": costs, "base": base, "metadata": front.metadata}
    return {**results[0], **changed, **summarize(front, point)}


def build_parser() -> ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        "Average the evaluations of several seeds, prompt by prompt, into one for comparisons.",
        f"{PROGRAM} --runs runs/seed-1/front runs/seed-2/front --output_dir runs/front",
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="FOLDER", help="evaluations")
    parser.add_argument("--output_dir", type=filled, required=True)
    add_flag(parser, "--overwrite", False, "replace what the folder already holds")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read, average, print, write."""
    args = build_parser().parse_args(argv)
    check_own_output(args.output_dir, PROGRAM, args.overwrite)
    settings = common_settings(args.runs)
    results, found = read_seeds(args.runs)
    values = torch.from_numpy(np.mean([units.values for units in found], axis=0))
    result = pooled_result(results, values)
    front = front_of(result)
    folder = prepare_output_dir(args.output_dir, overwrite=args.overwrite)
    atomic_write_json(folder / FRONT_FILE, result)
    write_units(folder, found[0].names, torch.from_numpy(front.preferences), values)
    write_run_record(folder, {**settings, **vars(args)}, {"program": PROGRAM})
    say(f"{front_table(front)}\n\n{indicator_table({result['label']: result})}")
    say(f"\nThe means of {len(results)} seeds. Written to {folder}: {FRONT_FILE}, {VALUES_FILE}")


if __name__ == "__main__":
    main()
