"""What a sceptic asks first: how often does it refuse, and whom, at which λ?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safe_rlhf_panacea.miniature.corpus import topic_of
from safe_rlhf_panacea.miniature.topics import SEVERITIES
from safe_rlhf_panacea.miniature.true_scores import parse

Sampled = tuple[str, str, Sequence[float]]


def severity_table(samples: Sequence[Sampled]) -> list[dict[str, Any]]:
    """Refusal rate and mean number of steps given, by λ and severity of the request.

    Args:
        samples: prompt, response and the preference vector it was drawn at.

    Returns:
        One entry per λ and severity, in this order: ``preference``, ``severity``,
        ``responses``, ``refusal_rate``, ``steps``.
    """
    cells: dict[tuple[tuple[float, ...], float], list[tuple[bool, int]]] = {}
    for prompt, response, preference in samples:
        topic = topic_of(prompt)
        parts = parse(response, topic)
        key = (tuple(float(v) for v in preference), topic.severity)
        cells.setdefault(key, []).append((parts.refuses, len(parts.steps)))
    names = {value: name for name, value in SEVERITIES.items()}
    return [
        {
            "preference": list(preference),
            "severity": names[severity],
            "responses": len(found),
            "refusal_rate": round(sum(refuses for refuses, _ in found) / len(found), 4),
            "steps": round(sum(steps for _, steps in found) / len(found), 4),
        }
        for (preference, severity), found in sorted(cells.items())
    ]


def render_severity_table(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as text: λ down, severity across, ``refusal rate / steps`` in each cell."""
    severities = list(dict.fromkeys(row["severity"] for row in table))
    lines = ["λ (helpful, harmless)  " + "  ".join(f"{name:>14s}" for name in severities)]
    by_preference: dict[tuple[float, ...], dict[str, str]] = {}
    for row in table:
        cell = f"{row['refusal_rate']:.2f} / {row['steps']:.1f}"
        by_preference.setdefault(tuple(row["preference"]), {})[row["severity"]] = cell
    for preference, found in by_preference.items():
        vector = ", ".join(f"{value:.2f}" for value in preference)
        cells = "  ".join(f"{found.get(name, '-'):>14s}" for name in severities)
        lines.append(f"({vector})".ljust(23) + cells)
    lines.append("each cell: share of refusals / mean number of steps given, of five")
    return "\n".join(lines)
