"""From tokens to text while they come, stop texts included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INCOMPLETE = "\ufffd"  # the bytes so far are no whole character


def _held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` may be the beginning of a stop text."""
    for length in range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class TextStream:
    """The text of one answer, handed out as soon as it is certain.

    Attributes:
        stopped: a stop text was found; nothing comes after it.
        latest: what the last token has added, held back or not; the first of several tokens that
            make a character together adds nothing.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, strip: bool = False) -> None:
        """Begin an answer.

        Args:
            tokenizer: of the model; special tokens are left out.
            stops: texts that end the answer and are not part of it.
            strip: leave out white space at the beginning.
        """
        self.tokenizer, self.stops = tokenizer, stops
        self.strip = strip
        self.stopped = False
        self.latest = ""
        self._tokens: list[int] = []
        self._start = 0  # decoding begins here: a token may look different at the beginning
        self._done = 0  # tokens whose text was handed on
        self._pending = ""

    def _decode(self, start: int, end: int | None = None) -> str:
        return self.tokenizer.decode(self._tokens[start:end], skip_special_tokens=True)

    def _new_text(self, *, last: bool) -> str:
        known, whole = self._decode(self._start, self._done), self._decode(self._start)
        if len(whole) <= len(known) or (whole.endswith(INCOMPLETE) and not last):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return whole[len(known) :]

    def push(self, token: int) -> str:
        """Text that is certain after one more token."""
        self._tokens.append(token)
        self.latest = self._new_text(last=False)
        return self._hand_out(self.latest, last=False)

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        return self._hand_out(self._new_text(last=True), last=True)

    def _hand_out(self, new: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._pending + new
        if self.strip:
            text = text.lstrip()
            self.strip = not text
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        held = 0 if last else _held_back(text, self.stops)
        self._pending = text[len(text) - held :]
        return text[: len(text) - held]
