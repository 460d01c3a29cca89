"""All figures of a folder on one page that opens without a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag
from safe_rlhf_panacea.configs.kinds import filled
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.io import atomic_write_text, check_file, read_json
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.show.pages import folded_table, image, page
from safe_rlhf_panacea.show.tables import Table

# The paper's order; what is not in it follows by name.
ORDER = (
    "figure_3_reward_distributions",
    "figure_4_left_ppo_fronts",
    "figure_4_right_front_evolution",
    "figure_5_dpo_fronts",
    "figure_6_responses",
    "figure_7_scaling_ablation",
    "figure_8_responses",
    "singular_values",
    "three_objectives",
)
SAYS = Markup('<p class="says">The paper says: {}</p>')
SECTION = Markup(
    '<section><h2>{title}</h2>{says}{pictures}<div class="wide">{html}</div>'
    "<p>{caption}</p>{tables}<pre>{command}</pre></section>"
)


def section(folder: Path, figure: dict[str, Any]) -> Markup:
    """A figure with all that belongs to it, the picture itself inside the page."""
    title, pictures = f"{figure['figure']}: {figure['title']}", []
    for path in (folder / name for name in figure["pictures"] if name.endswith(".png")):
        if not path.is_file():
            raise UserError(f"{path} is missing: draw the figure again")
        pictures.append(image(path.read_bytes(), title))
    tables = [] if figure["html"] else figure["tables"]
    return SECTION.format(
        title=title,
        says=SAYS.format(figure["paper_says"]) if figure["paper_says"] else "",
        pictures=Markup("\n").join(pictures),
        html=Markup(figure["html"]),
        caption=figure["caption"],
        tables=Markup("\n").join(folded_table(Table(**entry)) for entry in tables),
        command=figure["command"],
    )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the page, its figures in the paper's order."""
    parser = ArgumentParser(
        "python eval/report.py",
        "Gather the figures of a folder on one self-contained page.",
        "python eval/report.py --figures runs/figures --output runs/report.html",
    )
    text = "folder of the figure programs' output"
    parser.add_argument("--figures", type=filled, required=True, help=text)
    parser.add_argument("--output", type=filled, required=True, help="the page, HTML")
    add_flag(parser, "--overwrite", False, "replace the page")
    args = parser.parse_args(argv)
    folder, output = Path(args.figures), Path(args.output)
    check_file(output, args.overwrite)
    figures = {}
    for path in folder.glob("*.json"):
        figure = read_json(path)
        if isinstance(figure, dict) and {"figure", "command", "pictures"} <= set(figure):
            figures[path.stem] = figure
    if not figures:
        raise UserError(f"{folder} holds no figures: run the programs in eval/ first")
    names = [name for name in ORDER if name in figures]
    names += sorted(set(figures) - set(ORDER))
    parts = [section(folder, figures[name]) for name in names]
    atomic_write_text(output, page("Panacea: figures and the commands that made them", parts))
    say(f"Written to {output}")


if __name__ == "__main__":
    main()
