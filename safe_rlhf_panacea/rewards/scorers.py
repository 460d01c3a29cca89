"""Models that score responses, each loaded once for all the objectives that it serves."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from safe_rlhf_panacea.base.engine import unwrap
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.data.control_tokens import as_text, control_pattern, special_tokens, tokenize
from safe_rlhf_panacea.data.template import AUTO, as_turns
from safe_rlhf_panacea.forward.passes import by_row
from safe_rlhf_panacea.models.pretrained import is_same_tokenizer
from safe_rlhf_panacea.models.score_model import ScoreModel
from safe_rlhf_panacea.rewards.responses import Responses

Scorer = Callable[[Responses], torch.Tensor]  # one score per row, size = (B,)


class RewardModel:
    """A model that scores whole sequences: Safe-RLHF's kind, or transformers' with a classifier.

    Attributes:
        path: where it was loaded from.
        model: answers with scores; its engine, once there is one.
        own_tokenizer: the model's.
        tokenizer: the policy's.
        stop_ids: the policy's tokens that end a response.
        reads_policy_tokens: whether both give every token the same id.
        is_classifier: whether it answers with ``logits``, and not with ``end_scores``.
        now: the date and time that its chat template may write; None: those of the moment.
    """

    def __init__(
        self,
        path: str,
        model: Any,
        own_tokenizer: Any,
        tokenizer: Any,
        stop_ids: Sequence[int],
        *,
        is_classifier: bool,
    ) -> None:
        """Compare the tokenizers."""
        self.path = path
        self.model = model
        self.own_tokenizer = own_tokenizer
        self.tokenizer, self.stop_ids = tokenizer, stop_ids
        self.reads_policy_tokens = is_same_tokenizer(tokenizer, own_tokenizer)
        self.is_classifier = is_classifier
        self.now: datetime.datetime | None = None

    def scorer(self, column: int) -> Scorer:
        """One of its D scores."""
        return lambda responses: self.scores(responses)[:, column]

    def scores(self, responses: Responses) -> torch.Tensor:
        """All its scores, size = (B, D); however many objectives ask, the model runs once."""
        return responses.once(self, lambda: self._run(responses))

    def _run(self, responses: Responses) -> torch.Tensor:
        if not self.reads_policy_tokens:
            ids, mask = self._own_tokens(responses)
        elif self.is_classifier:
            ids, mask = _padded_right(responses, self.own_tokenizer.pad_token_id)
        else:
            ids, mask = responses.input_ids, responses.attention_mask
        if self.is_classifier:
            return by_row(self.model, lambda part: self._logits(part.of(ids), part.of(mask)), mask)
        # Safe-RLHF's own models, and a critic that scores as well, know of no groups.
        knows = isinstance(unwrap(self.model), ScoreModel)
        more = {"groups": responses.groups} if knows else {}
        return self.model(ids, attention_mask=mask, **more).end_scores

    def _logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(ids, attention_mask=mask.long()).logits.float()

    def _own_tokens(self, responses: Responses) -> tuple[torch.Tensor, torch.Tensor]:
        """The conversations in the model's own tokens, and their mask, padded on the right."""
        ended = responses.ended(self.stop_ids)
        if responses.examples is None:
            rows = self._encoded_anew(responses, ended)
        else:
            answers = self.tokenizer.batch_decode(
                responses.response_ids(), skip_special_tokens=True
            )
            rows = list(map(self._conversation, responses.examples, answers, ended))
        device = responses.input_ids.device
        ids = [torch.tensor(row[: self.own_tokenizer.model_max_length]) for row in rows]
        padded = pad_sequence(ids, batch_first=True, padding_value=self.own_tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        return padded.to(device), mask.bool().to(device)

    def _conversation(self, example: Mapping[str, Any], answer: str, ended: bool) -> list[int]:
        """In the model's own chat template."""
        if self.own_template is not None:
            turns, system = example["input"], example.get("system")
            return self.own_template.conversation_ids(turns, answer, ended, system)
        return self._encode(["\n".join([*as_turns(example["input"]), answer])], [ended])[0]

    @cached_property
    def own_template(self) -> ChatTemplate | None:
        """Of a score model without one it is Safe-RLHF's; a classifier may know of no turns."""
        if self.is_classifier and not self.own_tokenizer.chat_template:
            return None
        return ChatTemplate.of(AUTO, self.own_tokenizer, self.now)

    def _encoded_anew(self, responses: Responses, ended: list[bool]) -> list[list[int]]:
        """As in Safe-RLHF, where the turns are not known: what the policy reads, as text."""
        mask = responses.attention_mask.bool()
        rows = [ids[kept] for ids, kept in zip(responses.input_ids, mask, strict=True)]
        return self._encode(self.tokenizer.batch_decode(rows, skip_special_tokens=True), ended)

    def _encode(self, texts: list[str], ended: list[bool]) -> list[list[int]]:
        """With the model's own end token behind those that had ended."""
        end = self.own_tokenizer.eos_token_id
        special = control_pattern(special_tokens(self.own_tokenizer))
        rows = tokenize(self.own_tokenizer, [as_text(text, special) for text in texts])
        if end is None:
            return rows
        # Some tokenizers write it behind every text.
        return [
            [*row, end] if has_ended and row[-1:] != [end] else row
            for row, has_ended in zip(rows, ended, strict=True)
        ]


def _padded_right(responses: Responses, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the padding between rows: a classifier may count positions from the first column."""
    mask = responses.attention_mask.bool()
    order = (~mask).sort(dim=-1, stable=True).indices  # the tokens first, in their order
    ids, mask = responses.input_ids.gather(-1, order), mask.gather(-1, order)
    width = int(mask.sum(dim=-1).max())
    return ids.masked_fill(~mask, pad)[:, :width], mask[:, :width]
