"""UltraFeedback: completions rated on four aspects (arXiv 2310.01377).

A row has a prompt and, as a rule, four completions, each rated 1 to 5 (or not at all) on every
aspect. All pairs of a row's completions are made, in the order in which they stand: six for
four completions. An aspect labels a pair where both have a rating and the ratings differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, ClassVar

from safe_rlhf_panacea.base.datasets.fields import (
    LeaveOut,
    Row,
    higher,
    pair,
    required,
    text,
)
from safe_rlhf_panacea.base.datasets.raw import RawSample
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset
from safe_rlhf_panacea.base.datasets.source import Part
from safe_rlhf_panacea.errors import UserError


def rating(completion: Row, aspect: str) -> float | None:
    """The rating of an aspect, or None where it is no number, such as ``N/A``."""
    annotation = (required(completion, "annotations") or {}).get(aspect) or {}
    try:
        value = float(annotation.get("Rating"))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


class UltraFeedbackDataset(PublishedDataset):
    """Fields of a completion: response, annotations[aspect].Rating."""

    NAME = "UltraFeedback"
    ALIASES = ("UltraFeedback/train", "openbmb/UltraFeedback")
    KIND = "pairs"
    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "instruction_following",
        "honesty",
        "truthfulness",
        "helpfulness",
    )
    HUB = "openbmb/UltraFeedback"
    LICENCE = "MIT"
    PART = Part("train")
    FIELDS = ("instruction", "completions")

    def regroup(self, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Any]]:
        for index, row in rows:
            completions = row["completions"]
            count = len(completions) if isinstance(completions, list) else 0
            for places in combinations(range(max(count, 2)), 2):  # convert refuses a lone one
                yield index, (row, *places)

    def convert(self, unit: tuple[Row, int, int]) -> RawSample:
        row, first, second = unit
        completions = row["completions"]
        if completions is not None and not isinstance(completions, list):
            raise UserError(f"completions is {type(completions).__name__}; it is a list")
        if len(completions or ()) < 2:
            raise LeaveOut("fewer than two completions")
        one, other = completions[first], completions[second]
        return pair(
            text(row, "instruction", "prompt"),
            text(one, "response", "response"),
            text(other, "response", "response"),
            {name: higher(rating(one, name), rating(other, name)) for name in self.OBJECTIVES},
        )
