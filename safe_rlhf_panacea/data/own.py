"""This package's own formats. They are strict: who wrote a row can mend it."""

from __future__ import annotations

from safe_rlhf_panacea.data.conversation import in_turn, is_dialogue, said
from safe_rlhf_panacea.data.fields import LeaveOut, Row
from safe_rlhf_panacea.data.raw import TAKEN, RawSample, label_value, without
from safe_rlhf_panacea.data.reader import Format
from safe_rlhf_panacea.errors import UserError

SAME = "identical responses"
LABEL_PREFIX = "better_"
# Safe-RLHF's own fields, under the names that its two objectives have in the paper.
SAFE_RLHF_LABELS = {"better_response_id": "helpful", "safer_response_id": "harmless"}


def text_field(row: Row, field: str) -> str:
    """A field that must be text and not blank."""
    value = row.get(field)
    if value is None:
        raise UserError(f"no field {field!r}; the row has: {', '.join(map(str, row))}")
    if not isinstance(value, str):
        raise UserError(f"{field} is {type(value).__name__}; it is a string")
    if not value.strip():
        raise UserError(f"{field} is blank; write some text or leave out the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{field} has half a surrogate pair; it is Unicode text") from None
    return value


def prompt_fields(row: Row) -> RawSample:
    """``prompt``, and ``system`` where the row has one.

    The prompt is text, turns that alternate user, assistant, ..., user, messages, or a dialogue in
    one text.
    """
    prompt = row.get("prompt")
    turns = prompt if isinstance(prompt, list) else [prompt]
    if is_dialogue(prompt) or (turns and isinstance(turns[0], dict)):
        conversation = in_turn(said(prompt, "prompt"), row.get("system"))
        _check_turns(len(conversation.turns))
        return conversation.prompt(len(conversation.turns))
    _check_turns(len(turns))
    texts = [text_field({**row, "prompt": turn}, "prompt") for turn in turns]
    sample: RawSample = {"input": texts if isinstance(prompt, list) else texts[0]}
    if row.get("system") not in (None, ""):
        sample["system"] = text_field(row, "system")
    return sample


def _check_turns(count: int) -> None:
    if count % 2 == 0:
        raise UserError(f"prompt has {count} turns; it has an odd number, ending with the user's")


def read_labels(row: Row) -> dict[str, int | None]:
    """All labels of a row of pairs, by objective."""
    labels: dict[str, int | None] = {}
    for field, value in row.items():
        if field in SAFE_RLHF_LABELS:
            labels.setdefault(SAFE_RLHF_LABELS[field], label_value(value, field))
        elif field.startswith(LABEL_PREFIX) and field != LABEL_PREFIX:
            labels[field.removeprefix(LABEL_PREFIX)] = label_value(value, field)
    return labels


def own_pair(row: Row) -> RawSample:
    """A pair with as many labels as it has, which may be none."""
    sample: RawSample = {
        **prompt_fields(row),
        "answer": text_field(row, "response_0"),
        "other_answer": text_field(row, "response_1"),
        "labels": read_labels(row),
    }
    if sample["answer"] == sample["other_answer"]:
        raise LeaveOut(SAME)
    return sample


def own_prompt(row: Row) -> RawSample:
    """A prompt, and its further columns for reward functions that ask for them."""
    if taken := sorted(TAKEN.intersection(row)):
        raise UserError(
            f"the column {taken[0]!r} has a name under which reward functions get something else: "
            "rename it"
        )
    further = without(row, ("prompt", "system"))
    sample = prompt_fields(row)
    if isinstance(row["prompt"], list) and isinstance(sample["input"], str):
        sample["input"] = [sample["input"]]  # one message: messages also for reward functions
    return {**further, **sample}


def own_text(row: Row) -> RawSample:
    """A prompt and the response to imitate."""
    return {**prompt_fields(row), "answer": text_field(row, "response")}


_PAIR = ("prompt", "response_0", "response_1")
PAIRS = Format("/".join(_PAIR), "pairs", _PAIR, own_pair)
PROMPTS = Format("prompt", "prompts", ("prompt",), own_prompt)
SUPERVISED = Format("prompt/response", "supervised", ("prompt", "response"), own_text)
