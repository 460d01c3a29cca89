"""How often every reward prefers the response that labels prefer, and how sure it may be of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.rewarded import RewardFileOptions
from safe_rlhf_panacea.data import ChatTemplate, PreferenceDataset, RawSample
from safe_rlhf_panacea.data.tokenized import Row, Sample, pad
from safe_rlhf_panacea.distributed import own_device
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.evaluation.loading import read_rewards, rewards_for
from safe_rlhf_panacea.forward import across
from safe_rlhf_panacea.fronts.measurement import agreement
from safe_rlhf_panacea.fronts.over_grid import batches
from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.models.pretrained import load_tokenizer
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.show.tables import align

PROGRAM = "python -m safe_rlhf_panacea.evaluation.agreement"
BINS = 10  # of how sure a reward is, from a half to one


class AgreementOptions(RewardFileOptions):
    """Hold rewards to labelled pairs.

    How often each prefers the response that a label prefers, and whether it is right as often as
    its margin says. Worth a look before it is trained for.
    """

    model_name_or_path: str = option(
        text="whose tokenizer and chat template write the pairs: the policy's", required=True
    )
    objectives: tuple[kinds.Text, ...] | None = option(
        None, "labels of the pairs; default: those that the rewards are named after"
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

    def encode(self, rows: list[Row]) -> None:
        """Refuse labels that no pair has after those that do not fit are gone."""
        super().encode(rows)
        for name, found in zip(self.objectives, self.labels.ne(0).any(dim=0), strict=True):
            if not found:
                raise UserError(f"{self.source}: no pair that is left has a label for {name!r}")

    def make(self, row: Row, prompt: list[int], *texts: list[int]) -> Sample:
        """With the text of the pair, ``sample``."""
        return {**super().make(row, prompt, *texts), "sample": row.sample}

    @property
    def samples(self) -> list[RawSample]:
        """The texts of all pairs."""
        return [pair["sample"] for pair in self._samples]

    def responses(self, rows: Sequence[int]) -> Responses:
        """All better responses of some pairs, then all worse ones."""
        pairs = [self[row] for row in rows]
        prompts, answers = [], []
        for side in ("better", "worse"):
            for pair in pairs:
                cut = pair["prompt_length"]
                prompts.append(pair[f"{side}_input_ids"][:cut])
                answers.append(pair[f"{side}_input_ids"][cut:])
        padding = self.tokenizer.pad_token_id
        (before, kept), (after, written) = pad(prompts, padding, "left"), pad(answers, padding)
        ids, mask = torch.cat([before, after], dim=1), torch.cat([kept, written], dim=1)
        examples, groups = [pair["sample"] for pair in pairs] * 2, across(2 * len(rows), 2)
        where = own_device()
        return Responses(ids.to(where), mask.to(where), before.size(1), examples, groups)


def judged(margins: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """How a reward's margins agree with a label, and what its certainty is worth.

    A Bradley-Terry model is right with probability σ(|margin|). The expected calibration error is
    the mean distance between the two over ten bins of equal width. ``margins`` are towards the
    better response, size = (P,), NaN where there is none; ``labels`` are +1, -1 or 0 for none.
    """
    towards = (margins * labels)[(labels != 0) & ~margins.isnan()]
    right, certainty = agreement(towards), towards.abs().sigmoid()
    number = len(towards)
    index = ((certainty - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = []
    for i in index.unique().tolist():
        mask = index == i
        means = {"certainty": certainty[mask].mean().item(), "accuracy": right[mask].mean().item()}
        bins.append({"pairs": int(mask.sum()), **means})
    distances = [entry["pairs"] * abs(entry["certainty"] - entry["accuracy"]) for entry in bins]
    return {
        "pairs": number,
        "accuracy": right.mean().item(),
        "standard_error": (right.var(correction=0) / number).sqrt().item(),
        "log_loss": -F.logsigmoid(towards).mean().item(),
        "calibration_error": sum(distances) / number,
        "bins": bins,
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Score the pairs with every reward, write the agreement as JSON and print it."""
    options = COMMAND.read(argv)
    # A margin's certainty is in the unit of its model; what is shifted far loses it.
    specs = [replace(spec, scale=1.0, shift=0.0) for spec in read_rewards(options, None)]
    tokenizer = load_tokenizer(options.model_name_or_path, options.max_length, "right")
    template = ChatTemplate.of(str(options.chat_template), tokenizer)
    objectives = options.objectives or [spec.name for spec in specs]
    pairs = JudgedPairs(options.datasets, tokenizer, objectives, options.seed, template=template)
    rewards = rewards_for(options, specs, tokenizer, template.stop_ids())
    rewards.check_columns(pairs.samples, "the pairs")
    parts = []
    for rows in batches(range(len(pairs)), options.batch_size, "Scoring pairs", options.progress):
        better, worse = rewards(pairs.responses(rows)).double().cpu().chunk(2)
        parts.append(better - worse)
    margins = torch.cat(parts)  # size = (P, m); NaN where a reward does not count for one of two
    found: dict[str, dict[str, Any]] = {}
    table = [["reward", "label", "pairs", "accuracy", "log loss", "calibration error"]]
    for spec, own in zip(specs, margins.T, strict=True):
        by_label = found[spec.name] = {}
        for name, labels in zip(objectives, pairs.labels.T, strict=True):
            if not (labels.ne(0) & ~own.isnan()).any():
                continue
            one = by_label[name] = judged(own, labels.double())
            share = f"{one['accuracy']:.3f} ± {one['standard_error']:.3f}"
            numbers = [f"{one[key]:.3f}" for key in ("log_loss", "calibration_error")]
            table.append([spec.name, name, str(one["pairs"]), share, *numbers])
        if not by_label:
            raise UserError(
                f"the reward {spec.name!r} counts for both responses of no labelled pair"
            )
    atomic_write_json(options.output_file, found)
    say(f"{align(table)}\n\nA coin has log loss 0.693. Written to {options.output_file}")


if __name__ == "__main__":
    main()
