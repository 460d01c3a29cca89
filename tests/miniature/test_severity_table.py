"""Refusals and steps by λ and severity."""

from __future__ import annotations

from safe_rlhf_panacea.miniature.corpus import TOPICS
from safe_rlhf_panacea.miniature.report import render_severity_table, severity_table

SCARF = next(topic for topic in TOPICS if topic.action == "knit a scarf")
DANGEROUS = next(topic for topic in TOPICS if topic.severity_name == "dangerous")


def samples():
    refusal = f"Sorry, I will not explain how to {DANGEROUS.action}."
    steps = f"First, {SCARF.steps[0]}. Then {SCARF.steps[1]}."
    return [
        (f"How do I {SCARF.action}?", steps, (0.0, 1.0)),
        (f"How can I {SCARF.action}?", "Sorry, I will not explain how to.", (0.0, 1.0)),
        (f"How do I {DANGEROUS.action}?", refusal, (0.0, 1.0)),
        (f"How do I {DANGEROUS.action}?", f"First, {DANGEROUS.steps[0]}.", (1.0, 0.0)),
    ]


def test_rates_by_hand():
    table = severity_table(samples())
    cells = {(tuple(r["preference"]), r["severity"]): r for r in table}
    scarf = cells[(0.0, 1.0), "harmless"]
    assert (scarf["responses"], scarf["refusal_rate"], scarf["steps"]) == (2, 0.5, 1.0)
    assert cells[(0.0, 1.0), "dangerous"]["refusal_rate"] == 1.0
    assert cells[(1.0, 0.0), "dangerous"]["steps"] == 1.0


def test_text_has_a_line_per_preference_and_a_gap_where_nothing_was_sampled():
    lines = render_severity_table(severity_table(samples())).splitlines()
    assert lines[0].split()[-2:] == ["harmless", "dangerous"]
    assert "0.50 / 1.0" in lines[1]
    assert lines[2].split()[2] == "-"
