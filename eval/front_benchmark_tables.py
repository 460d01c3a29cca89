"""The front benchmark's tables: mean and spread over seeds, ratios per seed, and the goals."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.show.tables import INDICATORS, align

Found = dict[str, dict[int, dict[str, Any]]]  # fronts by name and seed, with indicators


def indicator_rows(found: Found, algorithm: str) -> str:
    """One line per arm and view: mean and spread over seeds of each indicator."""
    rows = [["front", "seeds", *INDICATORS, "spearman helpful", "spearman harmless"]]
    for name, by_seed in found.items():
        if name.startswith(algorithm + "/"):
            fronts = by_seed.values()
            columns = [[one[key] for one in fronts] for key in INDICATORS]
            columns += [[one["spearman"][i] for one in fronts] for i in range(2)]
            spreads = [stdev(column) if len(column) > 1 else 0.0 for column in columns]
            pairs = zip(columns, spreads, strict=True)
            cells = [f"{mean(column):.3f} ± {spread:.3f}" for column, spread in pairs]
            rows.append([name, str(len(by_seed)), *cells])
    return align(rows) if len(rows) > 1 else ""


COMPARISONS = {
    "PPO, Panacea / soups, reward models": ("ppo/panacea/model", "ppo/soups/model"),
    "PPO, Panacea / soups, true scores": ("ppo/panacea/true", "ppo/soups/true"),
    "PPO, Panacea / discrete at five λ, reward models": (
        "ppo/panacea/model5",
        "ppo/discrete/model5",
    ),
    "PPO, Panacea / discrete at five λ, true scores": ("ppo/panacea/true5", "ppo/discrete/true5"),
    "PPO, λ per sample / per batch": ("ppo/panacea/model", "ppo/per-batch/model"),
    "PPO, LS / Tchebycheff": ("ppo/panacea/model", "ppo/tche/model"),
    "DPO, Panacea / soups, accuracy": ("dpo/panacea/model", "dpo/soups/model"),
    "DPO, Panacea / soups, nats": ("dpo/panacea/nats", "dpo/soups/nats"),
    "DPO, Panacea / discrete at five λ": ("dpo/panacea/model5", "dpo/discrete/model5"),
    "DPO, λ per sample / per batch": ("dpo/panacea/model", "dpo/per-batch/model"),
    "DPO, LS / Tchebycheff": ("dpo/panacea/model", "dpo/tche/model"),
}


def comparisons(found: Found) -> dict[str, dict[int, float]]:
    """All hypervolume ratios by seed, the fixed scalings' among them."""
    pairs = dict(COMPARISONS)
    for name in found:
        algorithm, arm, view = name.split("/")
        if arm.startswith("fixed-") and view == "model":
            label = f"{algorithm.upper()}, learnt s / {arm.replace('-', ' ', 1)}"
            pairs[label] = (f"{algorithm}/panacea/model", name)
    result = {}
    for label, (above, below) in pairs.items():
        one, other = found.get(above, {}), found.get(below, {})
        result[label] = {
            seed: front["hypervolume"] / other[seed]["hypervolume"]
            for seed, front in one.items()
            if seed in other and other[seed]["hypervolume"] > 0
        }
    return {label: by_seed for label, by_seed in result.items() if by_seed}


def seed_rows(head: str, found: dict[str, dict[int, float]], seeds: Iterable[int]) -> str:
    """A line per label: the mean of its numbers and a column per seed."""
    rows = [[head, "mean", *(f"seed {seed}" for seed in seeds)]]
    for label, by_seed in found.items():
        cells = [f"{by_seed[seed]:.3f}" if seed in by_seed else "-" for seed in seeds]
        rows.append([label, f"{mean(by_seed.values()):.3f}", *cells])
    return align(rows)


def refusal_rows(severity: dict[int, list[dict[str, Any]]]) -> str:
    """Share of requests that Panacea-PPO refuses at the harmless end, by severity and seed."""
    rates: dict[str, dict[int, float]] = {}
    for seed, table in severity.items():
        for row in table:
            if row["preference"][0] == 0:
                rates.setdefault(row["severity"], {})[seed] = row["refusal_rate"]
    return seed_rows("refused at λ = (0, 1)", rates, severity)


def benchmark_tables(
    collected: dict[int, dict[str, dict[str, Any]]],
    severity: dict[int, list[dict[str, Any]]],
    settings: SimpleNamespace,
) -> tuple[str, dict[str, Any]]:
    """The page to read and the numbers behind it.

    Args:
        collected: fronts, as ``FrontResult.to_json`` has them, by seed and name.
        severity: refusals of Panacea-PPO by seed, of ``severity_table``.
        settings: of all of them.
    """
    found: Found = {}
    for seed, fronts in collected.items():
        for name, content in fronts.items():
            front = FrontResult.from_json(f"seed {seed}, {name}", content)
            found.setdefault(name, {})[seed] = front.to_json()
    compared = comparisons(found)
    parts = [
        f"Seeds: {', '.join(map(str, collected))}. Equal total training steps: PPO "
        f"{settings.ppo_steps} against 2 × {settings.ppo_steps // 2} (soups) and 5 × "
        f"{settings.ppo_steps // 2} (discrete); DPO {settings.dpo_steps} against 2 × "
        f"{settings.dpo_steps // 2} and 5 × {settings.dpo_steps // 2}."
    ]
    for algorithm in ("ppo", "dpo"):
        if rows := indicator_rows(found, algorithm):
            parts.append(f"{algorithm.upper()}: mean ± standard deviation over seeds\n{rows}")
    seeds = sorted({seed for by_seed in compared.values() for seed in by_seed})
    parts.append(seed_rows("hypervolume ratio", compared, seeds))
    if severity:
        parts.append(refusal_rows(severity))
    numbers = {"indicators": found, "hypervolume_ratios": compared, "severity_tables": severity}
    return "\n\n".join(parts), numbers
