"""Counters and durations in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # seconds
COUNTERS = {
    "panacea_requests_total": "Requests by route and status.",
    "panacea_prompt_tokens_total": "Tokens of prompts that were read.",
    "panacea_generated_tokens_total": "Tokens of answers.",
}
DURATIONS = {
    "panacea_first_token_seconds": "From the request to the first token, waiting included.",
    "panacea_answer_seconds": "From the request to the end of an answer.",
}
GAUGES = {"panacea_rows": "Answers under way.", "panacea_waiting": "Answers that wait for a row."}


class Metrics:
    """What happened since the start; may be used from any thread."""

    def __init__(self) -> None:
        """Everything is 0."""
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, float]] = {name: defaultdict(float) for name in COUNTERS}
        self._buckets = {name: [0] * (len(BUCKETS) + 1) for name in DURATIONS}
        self._sums = dict.fromkeys(DURATIONS, 0.0)

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        """Count."""
        text = ",".join(f'{key}="{label}"' for key, label in labels.items())
        with self._lock:
            self._counts[name][f"{{{text}}}" if text else ""] += value

    def observe(self, name: str, seconds: float) -> None:
        """Note a duration."""
        place = sum(seconds > bound for bound in BUCKETS)
        with self._lock:
            self._buckets[name][place] += 1
            self._sums[name] += seconds

    def render(self, gauges: Mapping[str, float]) -> str:
        """All of it as text; ``gauges`` are values of this moment."""
        lines = []
        with self._lock:
            for name, text in COUNTERS.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
                counts = self._counts[name] or {"": 0}
                lines += [f"{name}{labels} {value:g}" for labels, value in counts.items()]
            for name, text in DURATIONS.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
                total = 0
                for bound, count in zip((*BUCKETS, "+Inf"), self._buckets[name], strict=True):
                    total += count
                    lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
                lines += [f"{name}_sum {self._sums[name]:.6f}", f"{name}_count {total}"]
        for name, value in gauges.items():
            lines += [f"# HELP {name} {GAUGES[name]}", f"# TYPE {name} gauge", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"
