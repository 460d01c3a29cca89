"""Figures 6 and 8: responses to the same prompt at two or at five λ, as HTML and Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure_program import Report, figure_main
from markupsafe import Markup

from safe_rlhf_panacea.configs.command_line import add_flag
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import read_responses
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import atomic_write_text
from safe_rlhf_panacea.show.pages import page, table_html
from safe_rlhf_panacea.show.plots import spread
from safe_rlhf_panacea.show.tables import Table, vector_text


def most_varied(rows: Sequence[dict[str, Any]]) -> str:
    """The prompt whose rewards change most with λ, each objective in units of its spread."""
    rewards = np.array([row["rewards"] for row in rows], dtype=np.float64)
    unit = np.nanstd(rewards, axis=0)
    unit[unit == 0] = 1.0
    prompts = np.array([row["prompt"] for row in rows], dtype=object)

    def change(prompt: str) -> float:
        return float(np.nansum(np.std(rewards[prompts == prompt] / unit, axis=0)))

    return max(dict.fromkeys(prompts), key=change)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this program."""
    parser.add_argument("--run", required=True, help="an evaluation with reward models")
    parser.add_argument("--prompt", help="default: the one whose rewards change most with λ")
    add_flag(parser, "--extremes", False, "only the two ends of the grid (Figure 6)")


def make(args: argparse.Namespace, stem: Path) -> tuple[Report, None]:
    """Write the table as HTML and Markdown."""
    names = FrontResult.load(args.run).objectives
    rows = [row for row in read_responses(args.run, names) if row["preference"]]
    chosen = most_varied(rows)
    if args.prompt is not None:
        if all(row["prompt"] != args.prompt for row in rows):
            raise UserError(f"{args.run} has no responses to the prompt {args.prompt!r}")
        chosen = args.prompt
    of_prompt = {tuple(row["preference"]): row for row in rows if row["prompt"] == chosen}
    shown = [of_prompt[key] for key in spread(sorted(of_prompt), 2 if args.extremes else 5)]
    rows = [[vector_text(r["preference"]), r["response"], *r["rewards"]] for r in shown]
    table = Table(chosen, [f"λ ({', '.join(names)})", "response", *names], rows)
    html = Markup("<p><b>{}</b></p>{}").format(chosen, table_html(table.columns, table.rows))
    report = Report(
        figure="Figure 6" if args.extremes else "Figure 8",
        title="Responses to one prompt at the two ends of the front"
        if args.extremes
        else "Responses to one prompt at five preference vectors",
        caption="Sampled from one model; on the right what each response earned.",
        paper_says="To an unsafe request the model declines or warns at the harmless end, and "
        "gives more and more of the advice asked for towards the helpful end.",
        tables=[table],
        html=html,
    )
    atomic_write_text(stem.with_suffix(".html"), page(report.title, [html]))
    atomic_write_text(
        stem.with_suffix(".md"), f"**{' '.join(chosen.split())}**\n\n{table.markdown()}\n"
    )
    return report, None


main = figure_main(
    __file__,
    __doc__,
    "--run runs/evaluation/panacea-ppo",
    add_flags,
    make,
    lambda args: "figure_6_responses" if args.extremes else "figure_8_responses",
)

if __name__ == "__main__":
    main()
