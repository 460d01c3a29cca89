"""m rewards as one, in the order of λ, and the models among those that score."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch

from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.data.template import (
    AUTO,
    as_text,
    as_turns,
    control_pattern,
    special_tokens,
    tokenize,
)
from safe_rlhf_panacea.data.tokenized import pad
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.passes import by_row
from safe_rlhf_panacea.models.pretrained import is_same_tokenizer
from safe_rlhf_panacea.models.score_model import ScoreModel
from safe_rlhf_panacea.rewards.functions import FunctionReward
from safe_rlhf_panacea.rewards.responses import Responses, RewardState
from safe_rlhf_panacea.rewards.spec import RewardSpec

Scorer = Callable[[Responses], torch.Tensor]  # one score per row, size = (B,)


class RewardModel:
    """A model that scores whole sequences: Safe-RLHF's kind, or transformers' with a classifier.

    However many objectives ask it, it is loaded once and runs once for each batch. ``model`` is its
    engine once there is one; ``stop_ids`` are the policy's tokens that end a response.

    Attributes:
        reads_policy_tokens: whether both tokenizers give every token the same id.
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
        self.path, self.model, self.own_tokenizer = path, model, own_tokenizer
        self.tokenizer, self.stop_ids = tokenizer, stop_ids
        self.reads_policy_tokens = is_same_tokenizer(tokenizer, own_tokenizer)
        self.is_classifier = is_classifier
        self.now: datetime.datetime | None = None

    def scorer(self, column: int) -> Scorer:
        """One of its D scores."""
        return lambda responses: self.scores(responses)[:, column]

    def scores(self, responses: Responses) -> torch.Tensor:
        """All its scores, size = (B, D)."""
        return responses.once(self, lambda: self._run(responses))

    def _run(self, responses: Responses) -> torch.Tensor:
        ids, mask = responses.input_ids, responses.attention_mask
        if not self.reads_policy_tokens:
            device = ids.device
            ids, mask = (part.to(device) for part in self._own_tokens(responses))
        elif self.is_classifier:
            # Without the padding between rows: it may count positions from the first column.
            order = (~mask.bool()).sort(dim=-1, stable=True).indices  # tokens first, in their order
            ids, mask = ids.gather(-1, order), mask.bool().gather(-1, order)
            width = int(mask.sum(dim=-1).max())
            ids = ids.masked_fill(~mask, self.own_tokenizer.pad_token_id)[:, :width]
            mask = mask[:, :width]
        if self.is_classifier:

            def logits(part: Any) -> torch.Tensor:
                answer = self.model(part.of(ids), attention_mask=part.of(mask).long())
                return answer.logits.float()

            return by_row(self.model, logits, mask)
        # Safe-RLHF's own models, and a critic that scores as well, know of no groups.
        knows = isinstance(unwrap(self.model), ScoreModel)
        more = {"groups": responses.groups} if knows else {}
        return self.model(ids, attention_mask=mask, **more).end_scores

    def _own_tokens(self, responses: Responses) -> tuple[torch.Tensor, torch.Tensor]:
        """The conversations in the model's own tokens, and their mask, padded on the right."""
        ended = responses.ended(self.stop_ids)
        if responses.examples is None:
            # As in Safe-RLHF, where the turns are not known: what the policy reads, as text.
            mask = responses.attention_mask.bool()
            kept = [ids[there] for ids, there in zip(responses.input_ids, mask, strict=True)]
            rows = self._encode(self.tokenizer.batch_decode(kept, skip_special_tokens=True), ended)
        else:
            ids = responses.response_ids()
            answers = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            rows = list(map(self._conversation, responses.examples, answers, ended))
        longest = self.own_tokenizer.model_max_length
        cut = [torch.tensor(row[:longest]) for row in rows]
        return pad(cut, self.own_tokenizer.pad_token_id)

    def _conversation(self, example: Mapping[str, Any], answer: str, ended: bool) -> list[int]:
        """The model's own tokens of a prompt and its answer, in its own chat template."""
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

    def _encode(self, texts: list[str], ended: list[bool]) -> list[list[int]]:
        """With the model's own end token behind those that had ended."""
        end = self.own_tokenizer.eos_token_id
        special = control_pattern(special_tokens(self.own_tokenizer))
        rows = tokenize(self.own_tokenizer, [as_text(text, special) for text in texts])
        for row, has_ended in zip(rows, ended, strict=True):
            if has_ended and end is not None and row[-1:] != [end]:  # some write it behind all
                row.append(end)
        return rows


class RewardEnsemble:
    """Scores responses under every objective.

    Attributes:
        specs: one per objective.
        scorers: one per objective.
        models: those that the scorers ask, each once.
        state: of the training; functions read it and log there.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        scorers: Sequence[Scorer],
        models: Sequence[RewardModel] = (),
        state: RewardState | None = None,
    ) -> None:
        """Hold on to the scorers."""
        if len(specs) != len(scorers):
            raise ValueError(f"{len(specs)} specifications for {len(scorers)} scorers")
        self.specs, self.scorers, self.models = list(specs), list(scorers), list(models)
        self.state = state or RewardState()

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives, in the order of λ."""
        return tuple(spec.name for spec in self.specs)

    @property
    def may_lack(self) -> bool:
        """Whether an objective may not count for a row: a function may say so."""
        return any(getattr(scorer, "may_lack", False) for scorer in self.scorers)

    def logged(self) -> dict[str, float]:
        """What functions have logged since the last call, as means over all processes."""
        logs = any(getattr(scorer, "logs", False) for scorer in self.scorers)
        return self.state.logged() if logs else {}

    def place(self, engine: Callable[[Any], Any]) -> None:
        """Put every model where it is to run, or into its engine."""
        for model in self.models:
            model.model = engine(model.model)

    @property
    def for_critic(self) -> RewardModel | None:
        """The first model whose backbone a critic can stand on: it scores the policy's tokens."""
        fit = (m for m in self.models if m.reads_policy_tokens and not m.is_classifier)
        return next(fit, None)

    def check_columns(
        self, examples: Sequence[Mapping[str, Any] | None] | None, source: str
    ) -> None:
        """Refuse data, called ``source``, that lack a column which a function needs.

        ``examples`` are the raw samples, None where one is not known; None in place of all:
        Safe-RLHF's own data sets, which keep none.
        """
        for function in (one for one in self.scorers if isinstance(one, FunctionReward)):
            for name in function.columns:
                for row, example in enumerate([None] if examples is None else examples):
                    if name not in (example or {}):
                        has = ", ".join(example or {}) or "none"
                        raise UserError(
                            f"{function.path} needs {name}, which is no column of {source} "
                            f"(prompt {row + 1} has: {has}), and no option gives it"
                        )

    @torch.no_grad()
    def __call__(self, responses: Responses) -> torch.Tensor:
        """The m rewards of each response, size = (B, m), float32.

        NaN stands where an objective does not count for a row, which functions alone may say. A
        model's NaN becomes an infinity, so that it shows and is not taken for that. Functions that
        are ``async`` run together, and beside the others.
        """
        columns = []
        with ThreadPoolExecutor() as threads:
            begun = {
                spec.name: threads.submit(scorer, responses)
                for spec, scorer in zip(self.specs, self.scorers, strict=True)
                if getattr(scorer, "is_async", False)
            }
            for spec, scorer in zip(self.specs, self.scorers, strict=True):
                done = begun[spec.name].result() if spec.name in begun else scorer(responses)
                scores = done.float()
                if not getattr(scorer, "may_lack", False):
                    scores = scores.masked_fill(scores.isnan(), torch.inf)
                columns.append(spec.sign * spec.scale * (scores - spec.shift))
        return torch.stack(columns, dim=-1)

    def raw(self, rewards: torch.Tensor) -> torch.Tensor:
        """What models and functions said, before sign, scale and shift; size = (..., m)."""
        factors = rewards.new_tensor([spec.sign * spec.scale for spec in self.specs])
        return rewards / factors + rewards.new_tensor([spec.shift for spec in self.specs])
