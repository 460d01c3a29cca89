"""Published data sets: how samples are made of their rows, and a table of all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from safe_rlhf_panacea.data.conversation import NO_TURNS, parse_dialogue
from safe_rlhf_panacea.data.formats import ALPACA, all_pairs, two_of
from safe_rlhf_panacea.data.raw import SAFE_RLHF_LABELS, RawDataset, RawSample
from safe_rlhf_panacea.data.sources import Part, Row, open_hub, open_path
from safe_rlhf_panacea.data.table import (
    Format,
    LeaveOut,
    Numbered,
    TableDataset,
    choice,
    higher,
    number,
    pair,
    required,
    text,
    usable,
)
from safe_rlhf_panacea.errors import UserError

# -- PKU-SafeRLHF: pairs with two labels (arXiv 2310.12773, 2406.15513) -------------------


def safe_rlhf(row: Row) -> RawSample:
    """A pair with the labels ``helpful`` and ``harmless``."""
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
    """Pairs whose chosen answer is better for one objective, that of their folder."""

    def convert(row: Row) -> RawSample:
        context, chosen = parse_dialogue(text(row, "chosen", "dialogue"))
        other_context, rejected = parse_dialogue(text(row, "rejected", "dialogue"))
        if context != other_context:
            raise LeaveOut("dialogues that part before the last answer")
        return pair(context, chosen, rejected, {objective: 0})

    fields = ("chosen", "rejected")
    return Format("hh-rlhf", "pairs", fields, convert, objectives=(objective,))


def chosen_dialogue(row: Row) -> RawSample:
    """Supervised text: the turns of the chosen dialogue, and its last answer."""
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
    """The one turn of a prompt, or its turns, of which later ones begin ``<extra_id_1>Assistant``.

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
        if waiting is not None and waiting[1]["prompt"] == row["prompt"]:
            yield waiting[0], (waiting[1], row)
            waiting = None
            continue
        if waiting is not None:
            yield waiting[0], (waiting[1], None)
        waiting = index, row
    if waiting is not None:
        yield waiting[0], (waiting[1], None)


def helpsteer2(unit: tuple[Row, Row | None]) -> RawSample:
    """A pair of two consecutive rows with the same prompt."""
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
    """Each row, and whether an earlier row has its prompt, as several rate an answer to one."""
    seen: set[str] = set()
    for index, row in rows:
        prompt = str(row["prompt"])
        yield index, (row, prompt in seen)
        seen.add(prompt)


def beavertails(unit: tuple[Row, bool]) -> RawSample:
    """A prompt, left out if an earlier row has the same."""
    row, came_before = unit
    prompt = text(row, "prompt", "prompt")
    if came_before:
        raise LeaveOut("prompt that came before")
    return {"input": prompt}


BEAVERTAILS = Format("BeaverTails", "prompts", ("prompt",), beavertails, with_repeats)

# -- the data sets -------------------------------------------------------------------------


class PublishedDataset(TableDataset):
    """A part of a data set on the hub, or of a copy of it."""

    HUB: ClassVar[str]
    """``owner/name``."""
    REVISION: ClassVar[str | None] = None
    """A branch, tag or commit; None is the newest."""
    LICENCE: ClassVar[str]
    PART: ClassVar[Part]
    """The split, and the folder it is in."""
    FORMAT: ClassVar[Format]

    def __init__(self, path: str | None = None, form: Format | None = None) -> None:
        """Read all rows.

        Args:
            path: a copy: one JSON or Parquet file, a folder with the hub's layout or saved
                with ``save_to_disk``, or another data set of the hub. None: the hub.
            form: in place of the data set's own format.

        Raises:
            UserError: it cannot be had, is not in its format, or no row is of use.
        """
        self.form = form or self.FORMAT
        if path is not None:
            self.read(open_path(path, self.PART), f"{self.NAME} ({path})")
            return
        try:
            source = open_hub(self.HUB, self.PART, self.REVISION)
        except UserError as error:
            raise UserError(f"{error}; a copy can be given as {self.NAME}:1:PATH") from error
        self.read(source, self.NAME)

    def format_of(self, first: Row) -> Format:
        return self.form


class BeaverTailsPart(Part):
    """A split such as ``330k_train``, which is ``round0/330k/train`` in the repository."""

    def within(self, path: Path) -> tuple[Path, str]:
        size, split = self.split.split("_")
        folder = path / "round0" / size
        # Without the hub's metadata the files of both sizes would make one split.
        return (folder, split) if folder.is_dir() else (path, self.split)


def published(name: str) -> type[PublishedDataset]:
    """The class of the published data set of a name."""
    cls = RawDataset._registry[name]
    assert issubclass(cls, PublishedDataset), name
    return cls


def _publish(
    names: str,
    hub: str,
    licence: str,
    splits: str,
    form: Format,
    folder: str | None = None,
    revision: str | None = None,
) -> None:
    """Make a class of each split, which registers it.

    In ``names``, the name and its aliases, ``{0}`` stands for the split. Without ``folder`` the
    split alone says which part of the repository it is; without ``revision`` it is the newest.
    """
    for split in splits.split():
        name, *aliases = names.format(split).split()
        part = (BeaverTailsPart if form is BEAVERTAILS else Part)(split, folder)
        known = {"NAME": name, "ALIASES": tuple(aliases), "KIND": form.kind, "FORMAT": form}
        known |= {"OBJECTIVES": form.objectives, "HUB": hub, "REVISION": revision, "PART": part}
        type(name, (PublishedDataset,), {**known, "LICENCE": licence, "__module__": __name__})


PKU, BY_NC, BOTH = "PKU-Alignment/PKU-SafeRLHF", "CC BY-NC 4.0", "train test"
SIZES = "330k_train 330k_test 30k_train 30k_test"
# PKU-SafeRLHF is version 1.0 of 2024; its branch v0 is the data of 2023, of which 30K and 10K are
# parts.
_publish(f"PKU-SafeRLHF/{{0}} PKU-SafeRLHF-1.0/{{0}} {PKU}/{{0}}", PKU, BY_NC, BOTH, SAFE_RLHF)
_publish("PKU-SafeRLHF-v0/{0}", PKU, BY_NC, BOTH, SAFE_RLHF, revision="v0")
_publish(f"PKU-SafeRLHF-30K/{{0}} {PKU}-30K/{{0}}", f"{PKU}-30K", BY_NC, BOTH, SAFE_RLHF)
_publish(f"PKU-SafeRLHF-10K/{{0}} {PKU}-10K/{{0}}", f"{PKU}-10K", BY_NC, "train", SAFE_RLHF)
for _name in ("harmless", "helpful"):
    _publish(
        f"hh-rlhf-{_name}-preference/{{0}} hh-rlhf-preference/{_name}-base/{{0}} "
        f"hh-{_name}-preference/{{0}} hh-preference/{_name}-base/{{0}}",
        *("Anthropic/hh-rlhf", "MIT", BOTH, hh_rlhf(_name), f"{_name}-base"),
    )
    _publish(
        f"hh-rlhf-{_name}-dialogue hh-rlhf-dialogue/{_name}-base "
        f"hh-{_name}-dialogue hh-dialogue/{_name}-base",
        *("Anthropic/hh-rlhf", "MIT", "train", HH_DIALOGUE, f"{_name}-base"),
    )
_publish(
    "UltraFeedback UltraFeedback/train openbmb/UltraFeedback",
    *("openbmb/UltraFeedback", "MIT", "train", ULTRAFEEDBACK),
)
_publish(
    "HelpSteer2/{0} nvidia/HelpSteer2/{0}",
    *("nvidia/HelpSteer2", "CC BY 4.0", "train validation", HELPSTEER2),
)
_publish(
    "BeaverTails/{0} PKU-Alignment/BeaverTails/{0}",
    *("PKU-Alignment/BeaverTails", BY_NC, SIZES, BEAVERTAILS),
)
_publish("alpaca stanford-alpaca tatsu-lab/alpaca", "tatsu-lab/alpaca", BY_NC, "train", ALPACA)
