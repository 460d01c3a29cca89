"""What the evaluation programs load: models, prompts, rewards, and adapters as a method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, PanaceaAdapter, load_adapter, load_soup
from safe_rlhf_panacea.adapter.fingerprint import check_base
from safe_rlhf_panacea.adapter.io import WEIGHTS_NAME, read_config, read_tensors
from safe_rlhf_panacea.configs.rewarded import MeasureOptions, ResponseOptions
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.data.datasets import different_rows
from safe_rlhf_panacea.data.specs import read_specs
from safe_rlhf_panacea.data.tokenized import Row, refusing, select_rows
from safe_rlhf_panacea.distributed import is_main_process, own_device
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig
from safe_rlhf_panacea.fronts.measure import measure
from safe_rlhf_panacea.fronts.measurement import Measurement, join, origin
from safe_rlhf_panacea.fronts.over_grid import Policy, Prompt
from safe_rlhf_panacea.models import load_pretrained_models
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.preference import parse_preference
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.spec import RewardSpec, apply_calibration, reward_specs
from safe_rlhf_panacea.runs.run_folder import RUN_FILE, read_record

STEP_FOLDER = re.compile(r"step-(\d+)")


def load_model(options: MeasureOptions, path: str) -> tuple[Any, Any]:
    """A model, on the GPU if there is one, and its tokenizer."""
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=options.max_length,
        trust_remote_code=options.trust_remote_code,
        dtype=torch.bfloat16 if options.bf16 else None,
    )
    check_positions(model, options.max_length, path)
    return model.to(own_device()), tokenizer


def read_prompts(options: MeasureOptions, template: ChatTemplate) -> list[Prompt]:
    """The different prompts of all data sets that leave room for a response; at least one."""

    def written(row: Row) -> str:
        with refusing(row):
            return template.prompt(row.sample["input"], row.sample.get("system"))

    rows = different_rows(select_rows(read_specs(options.datasets), options.seed), written)
    (encoded,) = template.encode([written(row) for row in rows])
    short = [
        Prompt(template.shown(ids), ids, row.sample)
        for ids, row in zip(encoded, rows, strict=True)
        if len(ids) < options.max_length
    ]
    if not short:
        raise UserError(f"no prompt is shorter than --max_length {options.max_length} tokens")
    if len(short) < len(rows) and is_main_process():
        say(f"left out {len(rows) - len(short)} prompts of --max_length tokens or more")
    return short


def read_rewards(
    options: MeasureOptions, objectives: Sequence[str] | None, calibration: str | None = None
) -> list[RewardSpec]:
    """The rewards that the options describe, in the order of ``objectives``, if that is given."""
    scales, signs, shifts = options.reward_scales, options.reward_signs, options.reward_shifts
    specs = reward_specs(options.reward_models, scales, signs, shifts, objectives)  # type: ignore[arg-type]
    return specs if calibration is None else apply_calibration(specs, calibration)


def rewards_for(
    options: MeasureOptions, specs: Sequence[RewardSpec], tokenizer: Any, stop_ids: Sequence[int]
) -> RewardEnsemble:
    """Load what scores responses in a tokenizer's tokens, on the GPU if there is one."""
    dtype = torch.bfloat16 if options.bf16 else None
    loading = RewardLoading(
        options.max_length, dtype, options.normalize_reward, options.trust_remote_code
    )
    rewards = load_rewards(specs, tokenizer, stop_ids, loading)
    rewards.place(lambda model: model.to(own_device()))
    return rewards


def policy_of(options: ResponseOptions, model: Any, adapter: Any, template: ChatTemplate) -> Policy:
    """A model as the flags want it measured."""
    stop_ids, pad = template.stop_ids(model), template.tokenizer.pad_token_id
    sampling = SamplingConfig(options.max_length, stop_ids, pad, temperature=options.temperature)
    size, shown = options.batch_size, options.progress
    return Policy(model, adapter, template.tokenizer, sampling, options.seed, size, size, shown)


@dataclass(frozen=True)
class Member:
    """A saved adapter and what the record of its run says."""

    folder: Path
    config: AdapterConfig
    record: dict[str, Any]  # ``run.json``; empty where there is none
    step: int | None  # of a checkpoint; None for a finished run

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that the run was started with."""
        return self.record.get("args", {})

    @property
    def preference(self) -> torch.Tensor:
        """The fixed λ that it was trained for, size = (m,); a ``UserError`` if there is none."""
        text = self.flags.get("fixed_preference")
        if text is None:
            raise UserError(
                f"{self.folder}: its {RUN_FILE} names no --fixed_preference; soups and discrete "
                "policies are made of adapters that were each trained for one λ"
            )
        return parse_preference(text, self.config.objectives)


def read_member(folder: str | Path) -> Member:
    """Read what there is to know of a saved adapter, without its weights."""
    folder = Path(folder)
    match = STEP_FOLDER.fullmatch(folder.name)
    # The adapter of a checkpoint lies in checkpoints/adapter/step-N of its run.
    home = folder.parents[2] if match and len(folder.parents) > 2 else folder
    record = read_record(home / RUN_FILE) if (home / RUN_FILE).is_file() else {}
    return Member(folder, read_config(folder), record, int(match[1]) if match else None)


class Method:
    """What one method trained: a Panacea adapter, or several for a soup or discrete policies.

    The adapter is injected into the base ``model``. ``name`` is a key of ``LABELS``; None: a soup
    if there are several members, else Panacea. A ``UserError`` or ``AdapterError`` names members
    that do not go together, are damaged, or belong to another model.
    """

    def __init__(
        self, model: nn.Module, members: Sequence[Member], name: str | None = None
    ) -> None:
        first = members[0]
        self.objectives, self.chat_template = first.config.objectives, first.config.chat_template
        for member in members:
            names = member.config.objectives
            if names != self.objectives:
                raise UserError(
                    f"{member.folder} has the objectives {', '.join(names)}, "
                    f"{first.folder} has {', '.join(self.objectives)}: they must agree"
                )
            if member.config.chat_template != self.chat_template:
                raise UserError(
                    f"{member.folder} was trained with another chat template than "
                    f"{first.folder}: one method has one"
                )
        self.model = model
        self.name = name or ("panacea" if len(members) == 1 else "rewarded_soups")
        self.members = list(members)
        self.adapter: PanaceaAdapter
        if self.name == "rewarded_soups":
            self.members = _in_order_of_objectives(members)
            folders = [member.folder for member in self.members]
            self.adapter = load_soup(model, folders, self.objectives)
            return
        if self.name == "panacea" and len(members) > 1:
            raise UserError("--method panacea has one adapter; give one, or another method")
        if self.name == "discrete_policies":
            self.members.sort(key=lambda member: member.preference.tolist())
        self.adapter = load_adapter(model, self.members[0].folder)
        for member in self.members[1:]:
            saved, source = member.config.base_fingerprint, str(member.folder)
            check_base(dict(model.named_parameters()), saved, source)

    @property
    def margin_scale(self) -> float:
        """DPO's β in training; 1 for an adapter that no pairs trained."""
        return float(self.members[0].flags.get("scale_coeff") or 1.0)

    def origin(self, label: str = "") -> dict[str, Any]:
        """What a result says of it; the seconds are None where a record lacks them."""
        first = self.members[0]
        stored = [t.numel() for m in self.members for t in read_tensors(m.folder).values()]
        finished = [m.record.get("training_seconds") for m in self.members if m.step is None]
        seconds = [value for value in finished if value is not None]
        known = sum(seconds) if len(seconds) == len(self.members) else None
        flags = {**first.flags, "fixed_scaling": first.config.fixed_scaling}
        return origin(self.name, label, flags, first.step, known, sum(stored), len(self.members))

    def measure(self, policy: Policy, grid: torch.Tensor, **what: Any) -> Measurement:
        """``measure`` at every λ of a grid, or at the λ of every discrete policy.

        Model and adapter are put into ``policy``; ``what`` are further arguments of ``measure``.
        """
        policy = replace(policy, model=self.model, adapter=self.adapter)
        if self.name != "discrete_policies":
            return measure(policy, grid, **what)
        parts = []
        for member in self.members:
            source = str(member.folder / WEIGHTS_NAME)
            self.adapter.load_state_dict(read_tensors(member.folder), source=source)
            parts.append(measure(policy, member.preference.unsqueeze(0), **what))
        return join(parts)


def _in_order_of_objectives(members: Sequence[Member]) -> list[Member]:
    """A soup's ingredients, each put where the λ that it was trained for has its 1."""
    names = members[0].config.objectives
    placed: dict[str, Member] = {}
    for member in members:
        value, index = member.preference.max(dim=0)
        name = names[int(index)]
        if value < 1:
            raise UserError(f"{member.folder} was trained for a mixed λ: a soup has vertices only")
        if name in placed:
            raise UserError(f"{placed[name].folder} and {member.folder} are both for {name!r}")
        placed[name] = member
    missing = [name for name in names if name not in placed]
    if missing:
        raise UserError(f"the soup has no ingredient for {', '.join(missing)}: add its adapter")
    return [placed[name] for name in names]
