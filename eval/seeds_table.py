"""What several reproductions came to, seed by seed: one table of indicators, one of times."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.configs.command_line import ArgumentParser
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.show.tables import Table

NAN = float("nan")
COLUMNS: dict[str, Callable[[FrontResult], float]] = {
    "hypervolume": lambda result: result.indicators["hypervolume"],
    "inner product": lambda result: result.indicators["inner_product"],
    "dominated": lambda result: result.indicators["dominated"],
    "least Spearman": lambda result: min(result.indicators["spearman"]),
    "training seconds": lambda result: getattr(result.cost, "training_seconds", None) or NAN,
    "stored parameters": lambda result: getattr(result.cost, "stored_parameters", NAN),
}


def number(value: float) -> str:
    """Three decimals, none for large ones; a dash where nothing is known."""
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}".rstrip("0").rstrip(".")


def indicator_table(folders: Sequence[Path]) -> str:
    """Hypervolume of every seed, and the means of the other columns.

    A row is an evaluation that all reproductions have, in the order of their making.
    """
    rows = []
    found = (folders[0] / "evaluation").glob("*/front.json")
    for path in sorted(found, key=lambda path: path.stat().st_mtime):
        name = path.parent.name
        if not all((f / "evaluation" / name / "front.json").is_file() for f in folders):
            continue
        results = [FrontResult.load(folder / "evaluation" / name) for folder in folders]
        row = [name, *(number(result.indicators["hypervolume"]) for result in results)]
        row += [number(sum(map(f, results)) / len(results)) for f in COLUMNS.values()]
        rows.append(row)
    if not rows:
        raise UserError(f"{folders[0]}: no evaluations that all of --runs have")
    head = ["front", *(f.name for f in folders), *(f"mean {column}" for column in COLUMNS)]
    return Table("", head, rows).markdown()


def time_table(folders: Sequence[Path]) -> str:
    """Seconds of every stage, summed."""
    rows = []
    for folder in folders:
        texts = [path.read_text(encoding="utf-8") for path in (folder / "done").glob("*")]
        seconds = [int(match[1]) for text in texts if (match := re.match(r"(\d+) seconds", text))]
        rows.append([folder.name, str(len(seconds)), f"{sum(seconds) / 60:.1f}"])
    return Table("", ["reproduction", "stages", "minutes"], rows).markdown()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of fronts and of minutes."""
    parser = ArgumentParser(
        "python eval/seeds_table.py",
        "Print what several runs of bash/reproduce_paper.sh came to, as Markdown tables.",
        "python eval/seeds_table.py --runs runs/seed-1 runs/seed-2 runs/seed-3",
    )
    parser.add_argument("--runs", nargs="+", required=True, help="what --runs was each time")
    args = parser.parse_args(argv)
    folders = [Path(folder) for folder in args.runs]
    say(indicator_table(folders))
    say(f"\n{time_table(folders)}")


if __name__ == "__main__":
    main()
