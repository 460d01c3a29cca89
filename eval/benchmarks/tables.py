"""What the benchmark found, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.measuring import WHOLE, Times, quartiles
from safe_rlhf_panacea.show.tables import Table, align

COLUMNS = ["case", "timed", "who", "CPU (quartiles)", "wall (quartiles)", "ratio", "peak MiB"]
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(values: Sequence[float]) -> str:
    """Median and quartiles in a unit that suits them."""
    low, middle, high = quartiles(values)
    size, unit = next((u for u in UNITS if middle >= u[0]), UNITS[-1])
    return f"{middle / size:.3g} {unit} ({low / size:.3g}-{high / size:.3g})"


def ratio(others: Sequence[float], firsts: Sequence[float]) -> float:
    """How many times as long the others take: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(firsts, others, strict=True))


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A row for everyone and everything that was timed."""
    found, clock, lines = result["found"], result["clock"], []
    first = next(iter(found.values()))
    for name in first["times"]:
        for who, one in found.items():
            if name not in one["times"]:
                continue
            times = one["times"][name]
            cells = [duration(times["cpu"]), duration(times["wall"])]
            compared = ratio(times[clock], first["times"][name][clock])
            times_first = "" if one is first else f"{compared:.2f}"
            peak = f"{one['peak_mib']:.0f}"
            timed = name + share(one["times"], name, clock)
            lines.append([result["case"], timed, who, *cells, times_first, peak])
    return lines


def share(times: Times, name: str, clock: str) -> str:
    """How much of the whole a part takes, if it is one."""
    if name == WHOLE or WHOLE not in times:
        return ""
    part, whole = (statistics.median(times[key][clock]) for key in (name, WHOLE))
    return f", {part / whole:.0%}"


def text(result: dict[str, Any]) -> str:
    """A plain table of one case."""
    table = align([COLUMNS[1:], *(row[1:] for row in rows(result))])
    return f"\n{result['title']}: {result['case']}\n{table}"


def markdown(results: Sequence[dict[str, Any]], about: str) -> str:
    """A table of each part, below what is said of the run."""
    parts: dict[str, list[list[str]]] = {}
    for result in results:
        parts.setdefault(result["title"], []).extend(rows(result))
    tables = (
        f"### {title}\n\n{Table(title, COLUMNS, lines).markdown()}"
        for title, lines in parts.items()
    )
    return "\n\n".join([about, *tables]) + "\n"
