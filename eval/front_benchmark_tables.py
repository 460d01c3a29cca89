"""The front benchmark's tables: mean and spread over seeds, ratios per seed, and the goals."""

from __future__ import annotations

from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.show.tables import INDICATORS, align

Collected = dict[int, dict[str, dict]]


def summaries(collected: Collected) -> dict[str, dict[int, dict]]:
    """Results by front name and seed."""
    found: dict[str, dict[int, dict]] = {}
    for seed, results in collected.items():
        for name, result in results.items():
            front = FrontResult.from_json(f"seed {seed}, {name}", result)
            found.setdefault(name, {})[seed] = front.to_json()
    return found


def _spread(values: list[float]) -> str:
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.3f} ± {spread:.3f}"


def indicator_rows(found: dict[str, dict[int, dict]], algorithm: str) -> str:
    """One line per arm and view: mean and spread over seeds of each indicator."""
    rows = [["front", "seeds", *INDICATORS, "spearman helpful", "spearman harmless"]]
    for name, by_seed in found.items():
        if not name.startswith(algorithm + "/"):
            continue
        cells = [_spread([s[key] for s in by_seed.values()]) for key in INDICATORS]
        cells += [_spread([s["spearman"][i] for s in by_seed.values()]) for i in range(2)]
        rows.append([name, str(len(by_seed)), *cells])
    return align(rows) if len(rows) > 1 else ""


def ratios(found: dict[str, dict[int, dict]], above: str, below: str) -> dict[int, float]:
    """Hypervolume of one front over another's, by seed."""
    one, other = found.get(above, {}), found.get(below, {})
    return {
        seed: one[seed]["hypervolume"] / other[seed]["hypervolume"]
        for seed in one
        if seed in other and other[seed]["hypervolume"] > 0
    }


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
    "DPO, Panacea / soups": ("dpo/panacea/model", "dpo/soups/model"),
    "DPO, Panacea / discrete at five λ": ("dpo/panacea/model5", "dpo/discrete/model5"),
    "DPO, λ per sample / per batch": ("dpo/panacea/model", "dpo/per-batch/model"),
    "DPO, LS / Tchebycheff": ("dpo/panacea/model", "dpo/tche/model"),
}


def comparisons(found: dict[str, dict[int, dict]]) -> dict[str, dict[int, float]]:
    """All hypervolume ratios, the fixed scalings' among them."""
    pairs = dict(COMPARISONS)
    for name in found:
        algorithm, arm, view = name.split("/")
        if arm.startswith("fixed-") and view == "model":
            label = f"{algorithm.upper()}, learnt s / {arm.replace('-', ' ', 1)}"
            pairs[label] = (f"{algorithm}/panacea/model", name)
    result = {label: ratios(found, *pair) for label, pair in pairs.items()}
    return {label: by_seed for label, by_seed in result.items() if by_seed}


def ratio_rows(compared: dict[str, dict[int, float]]) -> str:
    """Hypervolume ratios, one column per seed."""
    seeds = sorted({seed for by_seed in compared.values() for seed in by_seed})
    rows = [["hypervolume ratio", "mean", *(f"seed {seed}" for seed in seeds)]]
    for label, by_seed in compared.items():
        cells = [f"{by_seed[seed]:.3f}" if seed in by_seed else "-" for seed in seeds]
        rows.append([label, f"{mean(by_seed.values()):.3f}", *cells])
    return align(rows)


def refusal_rows(severity: dict[int, list[dict[str, Any]]]) -> str:
    """Share of requests that Panacea-PPO refuses at the harmless end, by severity and seed."""
    ends = {
        seed: [row for row in table if row["preference"][0] == 0]
        for seed, table in severity.items()
    }
    names = list(dict.fromkeys(row["severity"] for rows in ends.values() for row in rows))
    table = [["refused at λ = (0, 1)", "mean", *(f"seed {seed}" for seed in ends)]]
    for name in names:
        rates = {
            seed: row["refusal_rate"]
            for seed, rows in ends.items()
            for row in rows
            if row["severity"] == name
        }
        cells = [f"{rates[seed]:.3f}" if seed in rates else "-" for seed in ends]
        table.append([name, f"{mean(rates.values()):.3f}", *cells])
    return align(table)


def benchmark_tables(
    collected: Collected, severity: dict[int, list[dict[str, Any]]], settings: SimpleNamespace
) -> tuple[str, dict[str, Any]]:
    """The page to read and the numbers behind it.

    Args:
        collected: results by seed and name.
        severity: refusals of Panacea-PPO by seed, of ``severity_table``.
        settings: of all of them.
    """
    found = summaries(collected)
    compared = comparisons(found)
    parts = [
        f"Seeds: {', '.join(map(str, collected))}. Equal total training steps: PPO "
        f"{settings.ppo_steps} against 2 × {settings.ppo_steps // 2} (soups) and 5 × "
        f"{settings.ppo_steps // 2} (discrete); DPO {settings.dpo_steps} against 2 × "
        f"{settings.dpo_steps // 2} and 5 × {settings.dpo_steps // 2}."
    ]
    for algorithm in ("ppo", "dpo"):
        rows = indicator_rows(found, algorithm)
        if rows:
            parts.append(f"{algorithm.upper()}: mean ± standard deviation over seeds\n{rows}")
    parts.append(ratio_rows(compared))
    if severity:
        parts.append(refusal_rows(severity))
    numbers = {"indicators": found, "hypervolume_ratios": compared, "severity_tables": severity}
    return "\n\n".join(parts), numbers
