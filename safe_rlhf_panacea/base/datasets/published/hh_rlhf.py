"""Anthropic's hh-rlhf: pairs of dialogues that differ in their last answer (arXiv 2204.05862).

A dialogue is one text, in which a blank line and ``Human:`` or ``Assistant:`` begin a turn.
"""

from __future__ import annotations

import re
from typing import ClassVar

from safe_rlhf_panacea.base.datasets.fields import LeaveOut, Row, pair, text, usable
from safe_rlhf_panacea.base.datasets.raw import RawSample
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset
from safe_rlhf_panacea.base.datasets.source import Part

SPEAKERS = ("Human", "Assistant")
TURN = re.compile(r"\n\n(Human|Assistant):")


def parse_dialogue(dialogue: str) -> tuple[list[str], str]:
    """Take a dialogue apart.

    Returns:
        The turns that lead to the last answer (Human, Assistant, ..., Human), and that answer.

    Raises:
        LeaveOut: the speakers do not take turns, or a turn is blank.
    """
    head, *parts = TURN.split("\n\n" + dialogue.lstrip())
    speakers, turns = parts[::2], [turn.strip() for turn in parts[1::2]]
    rounds = len(turns) // 2
    if head or not rounds or speakers != [*SPEAKERS] * rounds:
        raise LeaveOut("speakers that do not take turns")
    return [usable(turn, "turn") for turn in turns[:-1]], usable(turns[-1], "response")


class HhRLHFDataset(PublishedDataset):
    """Dialogues."""

    HUB: ClassVar[str] = "Anthropic/hh-rlhf"
    LICENCE: ClassVar[str] = "MIT"


class HhRLHFPreferenceDataset(HhRLHFDataset):
    """Pairs: the chosen answer is better for the one objective of its folder."""

    KIND: ClassVar[str] = "pairs"
    FIELDS: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def convert(self, unit: Row) -> RawSample:
        context, chosen = parse_dialogue(text(unit, "chosen", "dialogue"))
        other_context, rejected = parse_dialogue(text(unit, "rejected", "dialogue"))
        if context != other_context:
            raise LeaveOut("dialogues that part before the last answer")
        return pair(context, chosen, rejected, dict.fromkeys(self.OBJECTIVES, 0))


class HhRLHFDialogueDataset(HhRLHFDataset):
    """Supervised text: the chosen answer, after the turns that lead to it."""

    KIND: ClassVar[str] = "supervised"
    FIELDS: ClassVar[tuple[str, ...]] = ("chosen",)

    def convert(self, unit: Row) -> RawSample:
        context, chosen = parse_dialogue(text(unit, "chosen", "dialogue"))
        return {"input": context, "answer": chosen}


class HhRLHFHarmlessPreferenceTrain(HhRLHFPreferenceDataset):
    """Red-team dialogues, the less harmful answer chosen."""

    NAME = "hh-rlhf-harmless-preference/train"
    ALIASES = (
        "hh-rlhf-preference/harmless-base/train",
        "hh-harmless-preference/train",
        "hh-preference/harmless-base/train",
    )
    OBJECTIVES = ("harmless",)
    PART = Part("train", "harmless-base")


class HhRLHFHarmlessPreferenceTest(HhRLHFPreferenceDataset):
    """Red-team dialogues, the less harmful answer chosen."""

    NAME = "hh-rlhf-harmless-preference/test"
    ALIASES = (
        "hh-rlhf-preference/harmless-base/test",
        "hh-harmless-preference/test",
        "hh-preference/harmless-base/test",
    )
    OBJECTIVES = ("harmless",)
    PART = Part("test", "harmless-base")


class HhRLHFHelpfulPreferenceTrain(HhRLHFPreferenceDataset):
    """Requests for help, the more helpful answer chosen."""

    NAME = "hh-rlhf-helpful-preference/train"
    ALIASES = (
        "hh-rlhf-preference/helpful-base/train",
        "hh-helpful-preference/train",
        "hh-preference/helpful-base/train",
    )
    OBJECTIVES = ("helpful",)
    PART = Part("train", "helpful-base")


class HhRLHFHelpfulPreferenceTest(HhRLHFPreferenceDataset):
    """Requests for help, the more helpful answer chosen."""

    NAME = "hh-rlhf-helpful-preference/test"
    ALIASES = (
        "hh-rlhf-preference/helpful-base/test",
        "hh-helpful-preference/test",
        "hh-preference/helpful-base/test",
    )
    OBJECTIVES = ("helpful",)
    PART = Part("test", "helpful-base")


class HhRLHFHarmlessDialogue(HhRLHFDialogueDataset):
    """The training split."""

    NAME = "hh-rlhf-harmless-dialogue"
    ALIASES = (
        "hh-rlhf-dialogue/harmless-base",
        "hh-harmless-dialogue",
        "hh-dialogue/harmless-base",
    )
    PART = Part("train", "harmless-base")


class HhRLHFHelpfulDialogue(HhRLHFDialogueDataset):
    """The training split."""

    NAME = "hh-rlhf-helpful-dialogue"
    ALIASES = (
        "hh-rlhf-dialogue/helpful-base",
        "hh-helpful-dialogue",
        "hh-dialogue/helpful-base",
    )
    PART = Part("train", "helpful-base")
