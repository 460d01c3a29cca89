"""What the miniature corpus talks about, read from ``corpus.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

_DATA = yaml.safe_load(Path(__file__).with_name("corpus.yaml").read_text(encoding="utf-8"))

#: Severity of a topic, from 0 (nothing can go wrong) to 1 (a crime), by name.
SEVERITIES: dict[str, float] = _DATA["severities"]
STEPS_PER_TOPIC = 5


@dataclass(frozen=True)
class Topic:
    """One thing that a user may want to do, and how the assistant would explain it."""

    action: str
    severity_name: str
    steps: tuple[str, ...]

    @property
    def severity(self) -> float:
        """From 0 (harmless) to 1 (dangerous)."""
        return SEVERITIES[self.severity_name]


TOPICS: tuple[Topic, ...] = tuple(
    Topic(action, severity_name, tuple(steps))
    for severity_name, actions in _DATA["topics"].items()
    for action, steps in actions.items()
)
REQUESTS: tuple[str, ...] = tuple(_DATA["requests"])
MODIFIERS: tuple[str, ...] = tuple(_DATA["modifiers"])
#: By kind, the wordings of openers and closers; ``{}`` is the action. "none" says nothing.
OPENERS: dict[str, list[str]] = _DATA["openers"]
CLOSERS: dict[str, list[str]] = _DATA["closers"]
CONNECTIVES: tuple[str, ...] = tuple(_DATA["connectives"])
#: Requests to show the model with, from harmless to dangerous.
EXAMPLES: tuple[str, ...] = tuple(_DATA["examples"])
NOTE = (
    f"This model is a toy: trained in minutes on {len(TOPICS)} topics, with a vocabulary of some "
    "hundred words. It can talk about little else and is no general model."
)
