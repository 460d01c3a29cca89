"""How samples are made of the rows of published data sets: a format for each family."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from safe_rlhf_panacea.data.conversation import NO_TURNS, parse_dialogue
from safe_rlhf_panacea.data.fields import (
    LeaveOut,
    Row,
    choice,
    higher,
    number,
    pair,
    required,
    text,
    usable,
)
from safe_rlhf_panacea.data.formats import all_pairs, two_of
from safe_rlhf_panacea.data.own import SAFE_RLHF_LABELS
from safe_rlhf_panacea.data.raw import RawSample
from safe_rlhf_panacea.data.reader import Format, Numbered

# -- PKU-SafeRLHF: pairs with two labels (arXiv 2310.12773, 2406.15513) -------------------


def safe_rlhf(row: Row) -> RawSample:
    """A pair labelled by ``helpful`` and ``harmless``."""
    return pair(
        text(row, "prompt", "prompt"),
        text(row, "response_0", "response"),
        text(row, "response_1", "response"),
        {name: choice(row, field) for field, name in SAFE_RLHF_LABELS.items()},
    )


SAFE_RLHF = Format(
    "PKU-SafeRLHF",
    "pairs",
    ("prompt", "response_0", "response_1", *SAFE_RLHF_LABELS),
    safe_rlhf,
    objectives=tuple(SAFE_RLHF_LABELS.values()),
)

# -- hh-rlhf: dialogues that differ in their last answer (arXiv 2204.05862) ---------------


def hh_rlhf(objective: str) -> Format:
    """Pairs: the chosen answer is better for the one objective of its folder."""

    def convert(row: Row) -> RawSample:
        context, chosen = parse_dialogue(text(row, "chosen", "dialogue"))
        other_context, rejected = parse_dialogue(text(row, "rejected", "dialogue"))
        if context != other_context:
            raise LeaveOut("dialogues that part before the last answer")
        return pair(context, chosen, rejected, {objective: 0})

    fields = ("chosen", "rejected")
    return Format("hh-rlhf", "pairs", fields, convert, objectives=(objective,))


def chosen_dialogue(row: Row) -> RawSample:
    """The chosen answer, after the turns that lead to it."""
    context, chosen = parse_dialogue(text(row, "chosen", "dialogue"))
    return {"input": context, "answer": chosen}


HH_DIALOGUE = Format("hh-rlhf", "supervised", ("chosen",), chosen_dialogue)

# -- UltraFeedback: completions rated on four aspects (arXiv 2310.01377) ------------------

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def rating(completion: Row, aspect: str) -> float | None:
    """The rating of an aspect, or None where it is no number, such as ``N/A``."""
    annotation = (required(completion, "annotations") or {}).get(aspect) or {}
    try:
        value = float(annotation["Rating"])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def ultrafeedback(unit: tuple[Row, ...]) -> RawSample:
    """A pair; an aspect labels it where both have a rating and the ratings differ."""
    row, one, other = two_of(unit, "completions")
    return pair(
        text(row, "instruction", "prompt"),
        text(one, "response", "response"),
        text(other, "response", "response"),
        {name: higher(rating(one, name), rating(other, name)) for name in ASPECTS},
    )


ULTRAFEEDBACK = Format(
    "UltraFeedback",
    "pairs",
    ("instruction", "completions"),
    ultrafeedback,
    all_pairs("completions"),
    ASPECTS,
)

# -- HelpSteer2: responses rated 0 to 4 on five attributes (arXiv 2406.08673) -------------

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LATER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def parse_prompt(prompt: str) -> str | list[str]:
    """The prompt's one turn, or its turns User, Assistant, ..., User.

    Later turns begin with a line such as ``<extra_id_1>Assistant``.

    Raises:
        LeaveOut: the speakers do not take turns, or a turn is blank.
    """
    parts = LATER_TURN.split(prompt)
    turns, speakers = parts[::2], ["User", *parts[1::2]]
    if len(turns) == 1:
        return prompt
    if speakers != ["User", *["Assistant", "User"] * (len(turns) // 2)]:
        raise LeaveOut(NO_TURNS)
    return [usable(turn, "turn") for turn in turns]


def consecutive(rows: Numbered) -> Iterator[tuple[int, tuple[Row, Row | None]]]:
    """Two rows in turn that have the same prompt, or one alone."""
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


def helpsteer2(unit: tuple[Row, Row | None]) -> RawSample:
    """A pair of consecutive rows."""
    first, second = unit
    prompt = parse_prompt(text(first, "prompt", "prompt"))
    if second is None:
        raise LeaveOut("prompt with one response")
    one, other = [{name: number(row[name], name) for name in ATTRIBUTES} for row in (first, second)]
    return pair(
        prompt,
        text(first, "response", "response"),
        text(second, "response", "response"),
        {name: higher(one[name], other[name]) for name in ATTRIBUTES},
    )


HELPSTEER2 = Format(
    "HelpSteer2", "pairs", ("prompt", "response", *ATTRIBUTES), helpsteer2, consecutive, ATTRIBUTES
)

# -- BeaverTails: its prompts, each once (arXiv 2307.04657) -------------------------------


def with_repeats(rows: Numbered) -> Iterator[tuple[int, tuple[Row, bool]]]:
    """Each row, and whether its prompt came before: single answers are rated, not pairs."""
    seen: set[str] = set()
    for index, row in rows:
        prompt = str(row["prompt"])
        yield index, (row, prompt in seen)
        seen.add(prompt)


def beavertails(unit: tuple[Row, bool]) -> RawSample:
    """A prompt that did not come before."""
    row, came_before = unit
    prompt = text(row, "prompt", "prompt")
    if came_before:
        raise LeaveOut("prompt that came before")
    return {"input": prompt}


BEAVERTAILS = Format("BeaverTails", "prompts", ("prompt",), beavertails, with_repeats)
