"""HelpSteer2: responses rated 0 to 4 on five attributes (arXiv 2406.08673).

The two responses to a prompt stand in consecutive rows and make one pair. Of a prompt of
several turns the later ones begin with a line such as ``<extra_id_1>Assistant``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from safe_rlhf_panacea.base.datasets.fields import (
    LeaveOut,
    Row,
    higher,
    number,
    pair,
    text,
    usable,
)
from safe_rlhf_panacea.base.datasets.raw import RawSample
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset
from safe_rlhf_panacea.base.datasets.source import Part

TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def parse_prompt(prompt: str) -> str | list[str]:
    """The prompt's one turn, or its turns User, Assistant, ..., User.

    Raises:
        LeaveOut: the speakers do not take turns, or a turn is blank.
    """
    parts = TURN.split(prompt)
    turns, speakers = parts[::2], ["User", *parts[1::2]]
    if len(turns) == 1:
        return prompt
    if speakers != ["User", *["Assistant", "User"] * (len(turns) // 2)]:
        raise LeaveOut("speakers that do not take turns")
    return [usable(turn, "turn") for turn in turns]


class HelpSteer2Dataset(PublishedDataset):
    """Pairs of consecutive rows."""

    KIND: ClassVar[str] = "pairs"
    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "helpfulness",
        "correctness",
        "coherence",
        "complexity",
        "verbosity",
    )
    HUB: ClassVar[str] = "nvidia/HelpSteer2"
    LICENCE: ClassVar[str] = "CC BY 4.0"
    FIELDS: ClassVar[tuple[str, ...]] = ("prompt", "response", *OBJECTIVES)

    def regroup(
        self, rows: Iterable[tuple[int, Row]]
    ) -> Iterator[tuple[int, tuple[Row, Row | None]]]:
        waiting: tuple[int, Row] | None = None
        for index, row in rows:
            if waiting is None:
                waiting = index, row
            elif waiting[1]["prompt"] == row["prompt"]:
                yield waiting[0], (waiting[1], row)
                waiting = None
            else:
                yield waiting[0], (waiting[1], None)
                waiting = index, row
        if waiting is not None:
            yield waiting[0], (waiting[1], None)

    def convert(self, unit: tuple[Row, Row | None]) -> RawSample:
        first, second = unit
        prompt = parse_prompt(text(first, "prompt", "prompt"))
        if second is None:
            raise LeaveOut("prompt with one response")
        ratings = [
            {name: number(row[name], name) for name in self.OBJECTIVES} for row in (first, second)
        ]
        return pair(
            prompt,
            text(first, "response", "response"),
            text(second, "response", "response"),
            {name: higher(ratings[0][name], ratings[1][name]) for name in self.OBJECTIVES},
        )


class HelpSteer2Train(HelpSteer2Dataset):
    """About 20 000 rows."""

    NAME = "HelpSteer2/train"
    ALIASES = ("nvidia/HelpSteer2/train",)
    PART = Part("train")


class HelpSteer2Validation(HelpSteer2Dataset):
    """About 1 000 rows."""

    NAME = "HelpSteer2/validation"
    ALIASES = ("nvidia/HelpSteer2/validation",)
    PART = Part("validation")
