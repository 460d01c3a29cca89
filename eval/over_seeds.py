"""One method against another over several seeds of training: the seeds are the units.

Every seed gives a pair of evaluations, of the method and of the baseline. From each pair come the
mean over λ of ⟨λ, ΔJ⟩ and the ratio of the hypervolumes, all from one reference point; over the
seeds come a mean and a Student t-interval (for the ratio of its logarithm).
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

from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag
from safe_rlhf_panacea.configs.kinds import filled, finite_float
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.compare import check_comparable
from safe_rlhf_panacea.fronts.measurement import grid_points
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.fronts.stats import front_difference
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_folder import check_own_output, prepare_output_dir
from safe_rlhf_panacea.runs.run_record import write_run_record
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from safe_rlhf_panacea.show.tables import align, front_table, fronts_title

PROGRAM = "python eval/over_seeds.py"
FORMAT = 1
MEAN = {"objectives", "points", "label", "metadata"}  # what is kept of the mean fronts


def t_interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % interval of a mean by Student's t; None of fewer than two values."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return None
    half = t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def read_pairs(
    runs: Sequence[str], baselines: Sequence[str]
) -> list[tuple[FrontResult, FrontResult]]:
    """The results of every seed, of the method and of the baseline; they must go together."""
    if len({Path(folder).resolve() for folder in runs}) < len(runs):
        raise UserError("--runs names a folder twice: every seed is one evaluation")
    if len(runs) != len(baselines):
        raise UserError(f"{len(runs)} --runs and {len(baselines)} --baselines: one of each a seed")
    folders = (*runs, *baselines)
    results = [FrontResult.load(folder) for folder in folders]
    check_comparable(results, folders)
    first = results[0]
    for folder, result in zip(folders, results, strict=True):
        if result.axis_labels != first.axis_labels:
            raise UserError(f"{folder} and {runs[0]} differ in their axis_labels")
        own, other = result.preferences, first.preferences
        if own.shape != other.shape or not np.allclose(own, other):
            raise UserError(f"{folder} and {runs[0]} were evaluated at different λ")
    return list(zip(results[: len(runs)], results[len(runs) :], strict=True))


def one_seed(own: FrontResult, base: FrontResult) -> dict[str, Any]:
    """What a seed says: the units of ``summary``."""
    volumes = [front.indicators["hypervolume"] for front in (own, base)]
    ends = [front.values[front.preferences.argmax(axis=0)].diagonal() for front in (own, base)]
    return {
        "mean_scalarised": front_difference(own, base).mean_scalarised,
        "hypervolume": volumes[0],
        "hypervolume_baseline": volumes[1],
        "hypervolume_ratio": volumes[0] / volumes[1] if volumes[1] > 0 else None,
        "at_vertices": ends[0].tolist(),  # J_i where λ_i is largest
        "at_vertices_baseline": ends[1].tolist(),
        "spearman": own.indicators["spearman"],
        "spearman_baseline": base.indicators["spearman"],
    }


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds with their intervals; no ratio where a hypervolume is 0."""
    gains = [seed["mean_scalarised"] for seed in seeds]
    gain, ratio = {"mean": float(np.mean(gains)), "interval": t_interval(gains)}, None
    ratios = [seed["hypervolume_ratio"] for seed in seeds]
    if all(one is not None and one > 0 for one in ratios):
        logs = np.log(ratios).tolist()
        ends = t_interval(logs)
        interval = None if ends is None else np.exp(ends).tolist()
        ratio = {"geometric_mean": float(np.exp(np.mean(logs))), "interval": interval}
    return {"mean_scalarised": gain, "hypervolume_ratio": ratio}


def mean_front(fronts: Sequence[FrontResult]) -> FrontResult:
    """The mean over the seeds at every λ, with its standard error over the seeds."""
    values = torch.from_numpy(np.stack([front.values for front in fronts]))  # size = (S, N, m)
    spread = values.std(dim=0) if len(fronts) > 1 else torch.zeros_like(values[0])
    grid = torch.tensor(fronts[0].preferences)
    points = grid_points(grid, values.mean(dim=0), spread / len(fronts) ** 0.5)
    metadata = {"seeds": len(fronts)}
    return fronts[0].having(points=points, metadata=metadata, units=None)


def describe(seeds: Sequence[dict[str, Any]], found: dict[str, Any]) -> str:
    """The table of the seeds, and what they say together."""

    def ends(interval: Sequence[float] | None, form: str) -> str:
        if interval is None:
            return " (one seed: no interval)"
        return f" [{interval[0]:{form}}, {interval[1]:{form}}], 95 % over the seeds"

    rows = [["seed", "mean ⟨λ, ΔJ⟩", "hypervolume ratio", "Spearman", "baseline's"]]
    for number, seed in enumerate(seeds, start=1):
        ratio = seed["hypervolume_ratio"]
        ranks = [" ".join(f"{v:.2f}" for v in seed[k]) for k in ("spearman", "spearman_baseline")]
        gain = f"{seed['mean_scalarised']:+.4f}"
        rows.append([str(number), gain, "" if ratio is None else f"{ratio:.3f}", *ranks])
    gain, ratio = found["mean_scalarised"], found["hypervolume_ratio"]
    lines = [align(rows), "", f"mean ⟨λ, ΔJ⟩ {gain['mean']:+.4f}{ends(gain['interval'], '+.4f')}"]
    if ratio is not None:
        text = f"{ratio['geometric_mean']:.3f}{ends(ratio['interval'], '.3f')}"
        lines.append(f"hypervolume ratio, geometric mean {text}")
    return "\n".join(lines)


def build_parser() -> ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(
        PROGRAM,
        "Compare two methods over several seeds, from evaluations of each seed in one order.",
        f"""
        {PROGRAM} --runs runs/seed-*/panacea --baselines runs/seed-*/soups \\
          --output_dir runs/over-seeds
        """,
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="FOLDER", help="a seed each")
    parser.add_argument("--baselines", nargs="+", required=True, metavar="FOLDER", help="likewise")
    text = "of all hypervolumes; default: of each objective the lowest of all evaluations' own"
    parser.add_argument("--reference_point", type=finite_float, nargs="+", help=text)
    parser.add_argument("--output_dir", type=filled, required=True)
    add_flag(parser, "--overwrite", False, "replace what the folder already holds")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read, compare, print, write."""
    args = build_parser().parse_args(argv)
    check_own_output(args.output_dir, PROGRAM, args.overwrite)
    pairs = read_pairs(args.runs, args.baselines)
    both = [result for pair in pairs for result in pair]
    reference = args.reference_point
    if reference is None:
        reference = np.min([result.reference_point for result in both], axis=0).tolist()
    pairs = [(own.measured_from(reference), base.measured_from(reference)) for own, base in pairs]
    seeds = [one_seed(own, base) for own, base in pairs]
    found = summary(seeds)
    fronts = [mean_front([pair[side] for pair in pairs]) for side in (0, 1)]
    folder, first = prepare_output_dir(args.output_dir, overwrite=args.overwrite), pairs[0][0]
    content = {
        "format": FORMAT,
        "kind": first.kind,
        "objectives": list(first.objectives),
        "reference_point": list(reference),
        "labels": [front.label for front in fronts],
        **found,
        "seeds": seeds,
        "mean_fronts": [front.model_dump(mode="json", include=MEAN) for front in fronts],
    }
    atomic_write_json(folder / "over_seeds.json", content)
    title = f"{fronts_title(pairs[0])}, means of {len(pairs)} seeds"
    save_picture(front_figure(fronts, title), folder / "over_seeds.png")
    write_run_record(folder, args, {"program": PROGRAM})
    for front in fronts:
        say(f"{front_table(front)}\n")
    say(f"{describe(seeds, found)}\n\nWritten to {folder}: over_seeds.json, over_seeds.png")


if __name__ == "__main__":
    main()
