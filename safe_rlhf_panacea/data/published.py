"""Published data sets: how samples are made of their rows, and a table of all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar

from safe_rlhf_panacea.data import formats, raw, specs
from safe_rlhf_panacea.data.formats import NO_TURNS, higher, number, pair, rows_with, text
from safe_rlhf_panacea.data.own import alpaca
from safe_rlhf_panacea.data.raw import Format, LeaveOut, Numbered, RawSample, Row
from safe_rlhf_panacea.errors import UserError


@rows_with(
    "/".join(["prompt/response_0/response_1", *raw.SAFE_RLHF_LABELS]),
    "pairs",
    "PKU-SafeRLHF",
    objectives=tuple(raw.SAFE_RLHF_LABELS.values()),
)
def safe_rlhf(row: Row) -> RawSample:
    """PKU-SafeRLHF (arXiv 2310.12773, 2406.15513): a pair with labels ``helpful``, ``harmless``.

    An id other than 0 and 1 is no label.
    """
    ids = {name: number(row[field], field) for field, name in raw.SAFE_RLHF_LABELS.items()}
    return pair(
        text(row, "prompt", "prompt"),
        text(row, "response_0", "response"),
        text(row, "response_1", "response"),
        {name: int(value) if value in (0, 1) else None for name, value in ids.items()},
    )


def last_answer(row: Row, field: str) -> tuple[list[str], str]:
    """The turns of a dialogue in one text that lead to its last answer, and that answer."""
    messages = formats.said_in(text(row, field, "dialogue"))
    if len(messages) % 2:
        raise LeaveOut(NO_TURNS)
    *turns, answer = formats.in_turn(messages).turns
    return turns, answer


def hh_rlhf(objective: str) -> Format:
    """hh-rlhf (arXiv 2204.05862): pairs whose chosen answer is better for their folder's objective.

    Dialogues differ in their last answer alone.
    """

    @rows_with("chosen/rejected", "pairs", "hh-rlhf", objectives=(objective,))
    def convert(row: Row) -> RawSample:
        context, chosen = last_answer(row, "chosen")
        other_context, rejected = last_answer(row, "rejected")
        if context != other_context:
            raise LeaveOut("dialogues that part before the last answer")
        return pair(context, chosen, rejected, {objective: 0})

    return convert


@rows_with("chosen", "supervised", "hh-rlhf")
def hh_dialogue(row: Row) -> RawSample:
    """Supervised text: the turns of the chosen dialogue, and its last answer."""
    context, chosen = last_answer(row, "chosen")
    return {"input": context, "answer": chosen}


ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def rating(completion: Row, aspect: str) -> float | None:
    """The rating of an aspect, or None where it is no number, such as ``N/A``."""
    annotation = (formats.required(completion, "annotations") or {}).get(aspect) or {}
    try:
        value = float(annotation["Rating"])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


@rows_with(
    "instruction/completions",
    "pairs",
    "UltraFeedback",
    regroup=formats.all_pairs("completions"),
    objectives=ASPECTS,
)
def ultrafeedback(unit: tuple[Row, ...]) -> RawSample:
    """UltraFeedback (arXiv 2310.01377): a pair, labelled by each aspect whose ratings differ."""
    row, one, other = formats.two_of(unit, "completions")
    return pair(
        text(row, "instruction", "prompt"),
        text(one, "response", "response"),
        text(other, "response", "response"),
        {name: higher(rating(one, name), rating(other, name)) for name in ASPECTS},
    )


ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def consecutive(rows: Numbered) -> Iterator[tuple[int, list[Row]]]:
    """Two rows in turn that have the same prompt, or one alone."""
    for _, group in groupby(rows, key=lambda numbered: numbered[1]["prompt"]):
        for index, row in group:
            yield index, [row, *(other for _, other in islice(group, 1))]


@rows_with(
    "/".join(["prompt/response", *ATTRIBUTES]),
    "pairs",
    "HelpSteer2",
    regroup=consecutive,
    objectives=ATTRIBUTES,
)
def helpsteer2(unit: list[Row]) -> RawSample:
    """HelpSteer2 (arXiv 2406.08673): a pair of two consecutive rows with the same prompt.

    Each is rated 0 to 4 on five attributes. Later turns of a prompt begin with ``<extra_id_1>``
    and the speaker.
    """
    prompt: str | list[str] = text(unit[0], "prompt", "prompt")
    parts = re.split(r"\n?<extra_id_1>(User|Assistant)\n", str(prompt))
    turns, speakers = parts[::2], ["User", *parts[1::2]]
    if len(turns) > 1:
        if speakers != ["User", *["Assistant", "User"] * (len(turns) // 2)]:
            raise LeaveOut(NO_TURNS)
        prompt = [formats.usable(turn, "turn") for turn in turns]
    if len(unit) < 2:
        raise LeaveOut("prompt with one response")
    one, other = ({name: number(row[name], name) for name in ATTRIBUTES} for row in unit)
    answer, second = (text(row, "response", "response") for row in unit)
    return pair(prompt, answer, second, {name: higher(one[name], other[name]) for name in one})


def with_repeats(rows: Numbered) -> Iterator[tuple[int, tuple[Row, bool]]]:
    """Each row, and whether an earlier row has its prompt, as several rate an answer to one."""
    seen: set[str] = set()
    for index, row in rows:
        prompt = str(row["prompt"])
        yield index, (row, prompt in seen)
        seen.add(prompt)


@rows_with("prompt", "prompts", "BeaverTails", regroup=with_repeats)
def beavertails(unit: tuple[Row, bool]) -> RawSample:
    """BeaverTails (arXiv 2307.04657): its prompts, each once."""
    row, came_before = unit
    prompt = text(row, "prompt", "prompt")
    if came_before:
        raise LeaveOut("prompt that came before")
    return {"input": prompt}


class PublishedDataset(raw.TableDataset):
    """A part of a data set on the hub, or of a copy of it."""

    HUB: ClassVar[str]  # owner/name
    REVISION: ClassVar[str | None] = None  # a branch, tag or commit; None is the newest
    LICENCE: ClassVar[str]
    SPLIT: ClassVar[str]
    FOLDER: ClassVar[str | None] = None  # of the repository; None: the split says which part it is
    FORMAT: ClassVar[Format]

    def __init__(self, path: str | None = None, form: Format | None = None) -> None:
        """Read all rows.

        ``path`` is a copy: one JSON or Parquet file, a folder with the hub's layout or saved with
        ``save_to_disk``, or another data set of the hub; None: the hub. ``form`` stands in for the
        data set's own format.
        """
        self.form = form or self.FORMAT
        if path is not None:
            self.read(self._copy(path), f"{self.NAME} ({path})")
            return
        try:
            source = self._on_hub(self.HUB, self.SPLIT, self.REVISION)
        except UserError as error:
            raise UserError(f"{error}; a copy can be given as {self.NAME}:1:PATH") from error
        self.read(source, self.NAME)

    def _on_hub(self, name: str, split: str, revision: str | None = None) -> raw.Source:
        options = {"split": split, "revision": revision, "data_dir": self.FOLDER}
        table = specs.load_table(name, **{key: value for key, value in options.items() if value})
        place = "/".join(filter(None, [f"{name}@{revision}" if revision else name, self.FOLDER]))
        return specs.rows_of(table, f"{place}#{split}")

    def _copy(self, path: str) -> raw.Source:
        place, split = specs.split_path(path)
        if specs.is_on_hub(place):
            return self._on_hub(place, split or self.SPLIT)
        if not Path(place).is_dir():
            return specs.open_path(path)
        folder, own_split = Path(place) / (self.FOLDER or ""), self.SPLIT
        if self.FORMAT is beavertails:
            # Without the hub's metadata the files of both sizes would make one split.
            size, own_split = self.SPLIT.split("_")
            folder = Path(place) / "round0" / size
        if folder.is_dir():
            return specs.open_table(str(folder), split, own_split)
        return specs.open_table(place, split, self.SPLIT)  # a copy of that folder alone

    def format_of(self, first: Row) -> Format:
        return self.form


def _publish(names: str, hub: str, licence: str, splits: str, form: Format, **more: Any) -> None:
    """Make a class of each split, in whose name and aliases it takes the place of ``{0}``."""
    for split in splits.split():
        name, *aliases = names.format(split).split()
        known = {"NAME": name, "ALIASES": tuple(aliases), "KIND": form.kind, "FORMAT": form}
        known |= {"OBJECTIVES": form.objectives, "HUB": hub, "LICENCE": licence, "SPLIT": split}
        type(name, (PublishedDataset,), {**known, **more, "__module__": __name__})


PKU, BY_NC, BOTH = "PKU-Alignment/PKU-SafeRLHF", "CC BY-NC 4.0", "train test"
HH, BEAVER = "Anthropic/hh-rlhf", "PKU-Alignment/BeaverTails"
SIZES = "330k_train 330k_test 30k_train 30k_test"
# PKU-SafeRLHF is version 1.0 of 2024; its branch v0 is the data of 2023, of which 30K and 10K are
# parts.
_publish(f"PKU-SafeRLHF/{{0}} PKU-SafeRLHF-1.0/{{0}} {PKU}/{{0}}", PKU, BY_NC, BOTH, safe_rlhf)
_publish("PKU-SafeRLHF-v0/{0}", PKU, BY_NC, BOTH, safe_rlhf, REVISION="v0")
_publish(f"PKU-SafeRLHF-30K/{{0}} {PKU}-30K/{{0}}", f"{PKU}-30K", BY_NC, BOTH, safe_rlhf)
_publish(f"PKU-SafeRLHF-10K/{{0}} {PKU}-10K/{{0}}", f"{PKU}-10K", BY_NC, "train", safe_rlhf)
for _name in ("harmless", "helpful"):
    _names = (
        f"hh-rlhf-{_name}-preference/{{0}} hh-rlhf-preference/{_name}-base/{{0}} "
        f"hh-{_name}-preference/{{0}} hh-preference/{_name}-base/{{0}}"
    )
    _publish(_names, HH, "MIT", BOTH, hh_rlhf(_name), FOLDER=f"{_name}-base")
    _names = (
        f"hh-rlhf-{_name}-dialogue hh-rlhf-dialogue/{_name}-base "
        f"hh-{_name}-dialogue hh-dialogue/{_name}-base"
    )
    _publish(_names, HH, "MIT", "train", hh_dialogue, FOLDER=f"{_name}-base")
_names = "UltraFeedback UltraFeedback/train openbmb/UltraFeedback"
_publish(_names, "openbmb/UltraFeedback", "MIT", "train", ultrafeedback)
_names = "HelpSteer2/{0} nvidia/HelpSteer2/{0}"
_publish(_names, "nvidia/HelpSteer2", "CC BY 4.0", "train validation", helpsteer2)
_publish(f"BeaverTails/{{0}} {BEAVER}/{{0}}", BEAVER, BY_NC, SIZES, beavertails)
_publish("alpaca stanford-alpaca tatsu-lab/alpaca", "tatsu-lab/alpaca", BY_NC, "train", alpaca)
