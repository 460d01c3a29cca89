"""Keeps text that spells a control token, such as ``<|im_end|>``, from becoming that token.

A tokenizer reads the spelling of a control token as the token, wherever it stands. So ``as_text``
puts the character ``CUT`` inside each such spelling in what users and data say, and ``tokenize``
tokenises the parts between these characters apart, so that no part spells a control token. What a
template writes has no ``CUT``: its control tokens remain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

CUT = "\ufdd0"  # of the characters that Unicode reserves for the inside of programs
_WORD = "a"


def special_tokens(tokenizer: Any) -> list[str]:
    """The spellings of a tokenizer's special tokens, the shortest first."""
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special}
    return sorted(special | set(tokenizer.all_special_tokens), key=len)


def control_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of each spelling of any of ``tokens``, overlapping ones too.

    A token of a single character cannot be cut.
    """
    spellings = "|".join(re.escape(token) for token in tokens if len(token) > 1)
    return re.compile(f"(?s:(?={spellings or '(?!)'}).)")  # (?!) matches nothing


def as_text(text: str, control: re.Pattern[str]) -> str:
    """``text`` with a ``CUT`` after the first character of each spelling of a control token."""
    return control.sub(rf"\g<0>{CUT}", text.replace(CUT, ""))


def tokenize(
    tokenizer: Any, texts: Sequence[str], add_special_tokens: bool = True
) -> list[list[int]]:
    """Token ids of each text, in which each ``CUT`` separates what is tokenised apart.

    Args:
        tokenizer: of the model.
        texts: with or without ``CUT``.
        add_special_tokens: whether the tokenizer puts its own around each text, such as BOS.
    """

    def encode(texts: Sequence[str], special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        return tokenizer(
            list(texts),
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would warn of texts that are truncated later
        )["input_ids"]

    whole = iter(encode([text for text in texts if CUT not in text], add_special_tokens))
    if not any(CUT in text for text in texts):
        return list(whole)
    (plain,), (framed,) = encode([_WORD]), encode([_WORD], add_special_tokens)
    before = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
    start, end = framed[:before], framed[before + len(plain) :]
    return [
        [*start, *_parts(text.split(CUT), encode), *end] if CUT in text else next(whole)
        for text in texts
    ]


def _parts(parts: Sequence[str], encode: Any) -> list[int]:
    """The tokens of the parts of a text, each tokenised by itself, one after the other.

    Some tokenizers put a space before a text. So each part but the first is tokenised behind a line
    break, which is then taken away; where that joins the part's beginning, it is left out.
    """
    first, *others = (part for part in parts if part)
    (line_break, ids), behind = encode(["\n", first]), encode(["\n" + part for part in others])
    for part, found in zip(others, behind, strict=True):
        joins = found[: len(line_break)] != line_break
        ids += encode([part])[0] if joins else found[len(line_break) :]
    return ids
