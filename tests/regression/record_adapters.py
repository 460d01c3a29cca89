"""Saves a set of adapters with today's code, with the numbers that they give.

    python -m tests.regression.record_adapters

writes ``references/adapters/v<version>-<commit>``. Record a set with each release, and whenever
what is saved changes, and keep all earlier sets: users have such adapters on their disks. The
kinds, their base models and the tokens are those of the first set, and what ``NEW`` adds.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter import inject_adapter
from safe_rlhf_panacea.adapter.io import read_config, read_tensors
from safe_rlhf_panacea.fronts.over_grid import margins_over_grid
from safe_rlhf_panacea.io import atomic_folder
from safe_rlhf_panacea.runs.run_record import git_state, package_versions
from tests.regression.adapter_numbers import FixedPairs, load_recorded, measure
from tests.regression.tiny_base import frozen_normal, tiny_base

ADAPTERS = Path(__file__).with_name("references") / "adapters"
FIRST = ADAPTERS / "v0.1.0-456a1163"
# Kinds that the first set lacks: the kind that they are like, and what differs in its config.
NEW = {"llama-m2-three-values-each": ("llama-m2", {"pref_rank": 3})}
KINDS = sorted({*(path.parent.name for path in FIRST.glob("*/reference.json")), *NEW})
# Pairs whose margin is nearer to 0 than this are left out, so that no rounding moves an accuracy.
GAP = {"float32": 0.02, "bfloat16": 0.5}


def reference_of(folder):
    return json.loads((folder / "reference.json").read_text(encoding="utf-8"))


def save_filled(base, config, dtype, folder, seed):
    """Save an adapter all of whose tensors are random and none is 0."""
    model = tiny_base({**base, "dtype": str(dtype).removeprefix("torch.")})
    adapter = inject_adapter(model, config)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            noise = frozen_normal(seed, name, parameter.shape)
            singular = name.endswith(("lora_sigma", "lora_s"))
            parameter.copy_((0.6 + 0.2 * noise if singular else 0.3 * noise).to(dtype))
    adapter.save(folder)


def drop_unclear_pairs(model, adapter, probe, gap):
    """Keep the pairs whose margin is farther than ``gap`` from 0 at every λ of the grid."""
    pairs = FixedPairs(probe["pairs"], adapter.objectives)
    batch = pairs.get_collator()([pairs[i] for i in range(len(pairs))])
    margins = margins_over_grid(model, adapter, batch, torch.tensor(probe["grid"]))
    clear = (margins.abs().amin(dim=0) > gap).tolist()  # size = (B,)
    probe["pairs"] = [pair for pair, kept in zip(probe["pairs"], clear, strict=True) if kept]


def record(kind, folder):
    """Save one adapter, load it again, and write down the numbers that it gives."""
    like, changes = NEW.get(kind, (kind, {}))
    reference = reference_of(FIRST / like)
    values = reference["values"]
    for index, place in enumerate(values["ingredients"] or ["."]):
        config = replace(read_config(FIRST / like / place), base_model=None, **changes)
        dtype = next(iter(read_tensors(FIRST / like / place).values())).dtype
        save_filled(values["base"], config, dtype, folder / place, seed=10 + index)
    model, adapter = load_recorded(folder, values)
    drop_unclear_pairs(model, adapter, values["probe"], GAP[values["base"]["dtype"]])
    values["numbers"] = measure(model, adapter, values["probe"])
    recorded = {"versions": package_versions(), "git": git_state()}
    text = json.dumps(
        {**reference, "name": kind, "recorded": recorded}, indent=2, ensure_ascii=False
    )
    # A row of numbers is one line.
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda row: " ".join(row.group().split()), text)
    (folder / "reference.json").write_text(text + "\n", encoding="utf-8")


def main():
    state = git_state()
    if state is None or state["modified"]:
        sys.exit("commit first: a set of adapters is named by the commit that saved it")
    name = f"v{safe_rlhf_panacea.__version__}-{state['commit'][:8]}"
    with atomic_folder(ADAPTERS / name) as folder:
        for kind in KINDS:
            (folder / kind).mkdir()
            record(kind, folder / kind)
    print(ADAPTERS / name)


if __name__ == "__main__":
    main()
