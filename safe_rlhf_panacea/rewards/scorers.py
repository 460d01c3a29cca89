"""Models that score responses, each loaded once for all the objectives that it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from safe_rlhf_panacea.base.models.score_output import last_attended
from safe_rlhf_panacea.base.tokenizers import is_same_tokenizer
from safe_rlhf_panacea.rewards.responses import Responses

Scorer = Callable[[Responses], torch.Tensor]  # one score per row, size = (B,)


class RewardModel:
    """A model that scores whole sequences: Safe-RLHF's kind, or transformers' with a classifier.

    Attributes:
        path: where it was loaded from.
        model: answers with scores; its engine, once there is one.
        own_tokenizer: the model's.
        tokenizer: the policy's.
        reads_policy_tokens: whether both give every token the same id.
        is_classifier: whether it answers with ``logits``, and not with ``end_scores``.
    """

    def __init__(
        self, path: str, model: Any, own_tokenizer: Any, tokenizer: Any, *, is_classifier: bool
    ) -> None:
        """Compare the tokenizers."""
        self.path = path
        self.model = model
        self.own_tokenizer = own_tokenizer
        self.tokenizer = tokenizer
        self.reads_policy_tokens = is_same_tokenizer(tokenizer, own_tokenizer)
        self.is_classifier = is_classifier

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
            return self.model(ids, attention_mask=mask.long()).logits.float()
        return self.model(ids, attention_mask=mask).end_scores

    def _own_tokens(self, responses: Responses) -> tuple[torch.Tensor, torch.Tensor]:
        """The text in the model's tokens, and their mask, padded on the right.

        As in Safe-RLHF, sequences are decoded without special tokens, the model's own end token is
        put behind those that had ended, and all are encoded anew.
        """
        input_ids, mask = responses.input_ids, responses.attention_mask.bool()
        rows = [ids[kept] for ids, kept in zip(input_ids, mask, strict=True)]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        last = input_ids.gather(-1, last_attended(mask).to(input_ids.device).unsqueeze(-1))
        ended = (last.squeeze(-1) == self.tokenizer.eos_token_id).tolist()
        end = self.own_tokenizer.eos_token or ""
        encoded = self.own_tokenizer(
            [text + end * has_ended for text, has_ended in zip(texts, ended, strict=True)],
            padding=True,
            padding_side="right",
            truncation=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(input_ids.device)
        return encoded["input_ids"], encoded["attention_mask"].bool()


def _padded_right(responses: Responses, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the padding between rows: a classifier may count positions from the first column."""
    mask = responses.attention_mask.bool()
    order = (~mask).sort(dim=-1, stable=True).indices  # the tokens first, in their order
    ids, mask = responses.input_ids.gather(-1, order), mask.gather(-1, order)
    width = int(mask.sum(dim=-1).max())
    return ids.masked_fill(~mask, pad)[:, :width], mask[:, :width]
