"""How often every reward prefers the response that labels prefer, and how sure it may be of it.

``python -m safe_rlhf_panacea.evaluation.agreement``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from safe_rlhf_panacea.configs import Program, configuration, kinds, option
from safe_rlhf_panacea.configs.rewarded import RewardFileOptions
from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset, RawSample
from safe_rlhf_panacea.data.specs import Row
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.loading import device, read_rewards, rewards_for
from safe_rlhf_panacea.forward import across
from safe_rlhf_panacea.fronts.measurement import agreement
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.models.pretrained import load_tokenizer
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.runs.logger import progress_bar
from safe_rlhf_panacea.show.tables import align

PROGRAM = "python -m safe_rlhf_panacea.evaluation.agreement"
BINS = 10  # of how sure a reward is, from a half to one


@configuration
class AgreementOptions(RewardFileOptions):
    """Hold rewards to labelled pairs.

    How often each prefers the response that a label prefers, and whether it is right as often as
    its margin says. Worth a look before it is trained for.
    """

    model_name_or_path: str = option(
        text="whose tokenizer and chat template write the pairs: the policy's", required=True
    )
    objectives: tuple[str, ...] | None = option(
        text="labels of the pairs; default: those that the rewards are named after", kind=kinds.text
    )


COMMAND = Program(
    AgreementOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --model_name_or_path runs/sft --datasets pairs:1:test.jsonl \\
      --reward_models helpful=runs/reward-helpful harmless=runs/reward-harmless \\
      --output_file runs/agreement.json
    """,
)


class JudgedPairs(PreferenceDataset):
    """Pairs that keep their text, for rewards that read it."""

    samples: list[RawSample]

    def encode(self, rows: list[Row]) -> int:
        """Refuse labels that no pair has after those that do not fit are gone."""
        self.samples = []
        kept = super().encode(rows)
        for name, found in zip(self.objectives, self.labels.ne(0).any(dim=0), strict=True):
            if not found:
                raise UserError(f"{self.source}: no pair that is left has a label for {name!r}")
        return kept

    def keep(self, row: Row) -> None:
        """Keep the text of a pair beside its tokens."""
        self.samples.append(row.sample)

    def responses(self, rows: Sequence[int]) -> Responses:
        """All better responses of some pairs, then all worse ones."""
        prompts, answers = [], []
        for tokens in (self.better, self.worse):
            for row in rows:
                cut = self.prompt_lengths[row]
                prompts.append(tokens[row][:cut].flip(0))
                answers.append(tokens[row][cut:])
        masks = [[torch.ones_like(ids) for ids in part] for part in (prompts, answers)]
        pad = float(self.tokenizer.pad_token_id)
        parts = [
            pad_sequence(part, batch_first=True, padding_value=pad) for part in (prompts, answers)
        ]
        attended = [pad_sequence(part, batch_first=True) for part in masks]
        parts[0], attended[0] = parts[0].flip(1), attended[0].flip(1)  # padded on the left
        where = device()
        return Responses(
            torch.cat(parts, dim=1).to(where),
            torch.cat(attended, dim=1).bool().to(where),
            parts[0].size(1),
            [self.samples[row] for row in rows] * 2,
            across(2 * len(rows), 2),
        )


def margins_of(
    pairs: JudgedPairs, rewards: RewardEnsemble, batch_size: int, progress: bool
) -> torch.Tensor:
    """Each reward of the better response less that of the worse one, size = (P, m), float64.

    NaN where a reward does not count for one of the two.
    """
    margins = []
    bar = progress_bar(total=len(pairs), desc="Scoring pairs", disable=not progress)
    for start in range(0, len(pairs), batch_size):
        rows = range(start, min(start + batch_size, len(pairs)))
        better, worse = rewards(pairs.responses(rows)).double().cpu().chunk(2)
        margins.append(better - worse)
        bar.update(len(rows))
    bar.close()
    return torch.cat(margins)


def judged(margins: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """How a reward's margins agree with a label, and what its certainty is worth.

    A Bradley-Terry model is right with probability σ(|margin|). Compared are the two over ten bins
    of equal width: the expected calibration error is the mean distance between them.

    Args:
        margins: towards the better response, size = (P,); NaN where there is none.
        labels: +1 agrees that it is, -1 disagrees, 0 there is none, size = (P,).

    Returns:
        ``pairs``; ``accuracy``, a tie counting half, with its ``standard_error``; ``log_loss``,
        the mean of -log σ(margin towards the label); ``calibration_error``; and ``bins`` that
        hold a pair, each with ``pairs``, ``certainty`` and ``accuracy``.
    """
    towards = (margins * labels)[(labels != 0) & ~margins.isnan()]
    right, certainty = agreement(towards), towards.abs().sigmoid()
    accuracy, number = right.mean().item(), len(towards)
    index = ((certainty - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = []
    for mask in (index == i for i in range(BINS)):
        if mask.any():
            means = {
                "certainty": certainty[mask].mean().item(),
                "accuracy": right[mask].mean().item(),
            }
            bins.append({"pairs": int(mask.sum()), **means})
    distances = [entry["pairs"] * abs(entry["certainty"] - entry["accuracy"]) for entry in bins]
    return {
        "pairs": number,
        "accuracy": accuracy,
        "standard_error": (right.var(correction=0) / number).sqrt().item(),
        "log_loss": -F.logsigmoid(towards).mean().item(),
        "calibration_error": sum(distances) / number,
        "bins": bins,
    }


def table_of(found: dict[str, dict[str, Any]]) -> str:
    """A row for every reward and label, for people."""
    rows = [["reward", "label", "pairs", "accuracy", "log loss", "calibration error"]]
    for reward, by_label in found.items():
        for label, one in by_label.items():
            share = f"{one['accuracy']:.3f} ± {one['standard_error']:.3f}"
            numbers = [f"{one[key]:.3f}" for key in ("log_loss", "calibration_error")]
            rows.append([reward, label, str(one["pairs"]), share, *numbers])
    return align(rows)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Score the pairs with every reward, write the agreement as JSON and print it."""
    options = COMMAND.read(argv)
    # A margin's certainty is in the unit of its model; what is shifted far loses it.
    specs = [replace(spec, scale=1.0, shift=0.0) for spec in read_rewards(options, None)]
    tokenizer = load_tokenizer(options.model_name_or_path, options.max_length, "right")
    template = ChatTemplate.of(options.chat_template, tokenizer)
    objectives = options.objectives or [spec.name for spec in specs]
    pairs = JudgedPairs(options.datasets, tokenizer, objectives, options.seed, template=template)
    rewards = rewards_for(options, specs, tokenizer, template.stop_ids())
    rewards.check_columns(pairs.samples, "the pairs")
    margins = margins_of(pairs, rewards, options.batch_size, options.progress)
    found = {
        spec.name: {
            name: judged(margins[:, column], pairs.labels[:, label].double())
            for label, name in enumerate(objectives)
            if (pairs.labels[:, label].ne(0) & ~margins[:, column].isnan()).any()
        }
        for column, spec in enumerate(specs)
    }
    for name, by_label in found.items():
        if not by_label:
            raise UserError(f"the reward {name!r} counts for both responses of no labelled pair")
    atomic_write_json(options.output_file, found)
    say(f"{table_of(found)}\n\nA coin has log loss 0.693. Written to {options.output_file}")


if __name__ == "__main__":
    main()
