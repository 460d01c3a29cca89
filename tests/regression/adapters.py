"""Recorded adapters and the numbers that they give on fixed tokens.

    python -m tests.regression.adapters

saves a set of adapters with today's code, with their numbers, to
``references/adapters/v<version>-<commit>``. Record a set with each release, and whenever what is
saved changes, and keep all earlier sets: users have such adapters on their disks. The kinds, their
base models and the tokens are those of the first set, and what ``NEW`` adds.

Weights come from NumPy's ``RandomState``, which is frozen for good (NEP 19), as torch's stream is
not; each tensor has a stream of its own, seeded by its name, so that their order does not matter.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter import inject_adapter, load_adapter, load_soup
from safe_rlhf_panacea.adapter.io import read_config, read_tensors
from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.fronts.measurement import agreement, labelled_statistics, towards_labels
from safe_rlhf_panacea.fronts.over_grid import margins_over_grid, over_rows
from safe_rlhf_panacea.io import atomic_folder
from safe_rlhf_panacea.runs.run_record import git_state, package_versions

ADAPTERS = Path(__file__).with_name("references") / "adapters"
FIRST = ADAPTERS / "v0.1.0-456a1163"
# Kinds that the first set lacks: the kind that they are like, and what differs in its config.
NEW = {"llama-m2-three-values-each": ("llama-m2", {"pref_rank": 3})}
KINDS = sorted({*(path.parent.name for path in FIRST.glob("*/reference.json")), *NEW})
# Pairs whose margin is nearer to 0 than this are left out, so that no rounding moves an accuracy.
GAP = {"float32": 0.02, "bfloat16": 0.5}


def frozen_normal(seed, name, shape):
    """A float32 tensor of this shape, drawn from N(0, 1) by NumPy's frozen stream."""
    stream = np.random.RandomState([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(stream.standard_normal(tuple(shape))).float()


def tiny_base(recipe):
    """A language model in evaluation mode, made as a reference describes it."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(recipe["model_type"], **recipe["config"])
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = frozen_normal(recipe["seed"], name, parameter.shape)
            # Vectors lie around 1 for weights of norms and 0 for biases.
            centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            spread = 0.1 if parameter.dim() == 1 else recipe["std"]
            parameter.copy_(centre + spread * noise)
    return model.to(getattr(torch, recipe["dtype"])).eval()


class FixedPairs:
    """Labelled pairs of token ids as a data set, in the form ``over_rows`` reads."""

    def __init__(self, pairs, objectives):
        self.pairs = pairs
        self.objectives = objectives

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        pair = self.pairs[index]
        return {
            "better_input_ids": torch.tensor(pair["better"]),
            "worse_input_ids": torch.tensor(pair["worse"]),
            "labels": torch.tensor(pair["labels"], dtype=torch.float32),
            "prompt_length": 0,
        }

    def get_collator(self):
        return partial(PreferenceDataset.collate, pad_token_id=0)


def load_recorded(folder, values):
    """The base model that a reference describes, and the adapter or soup in its folder."""
    model = tiny_base(values["base"])
    if not values["ingredients"]:
        return model, load_adapter(model, folder)
    folders = [folder / name for name in values["ingredients"]]
    return model, load_soup(model, folders, values["objectives"])


def at(preference):
    return f"λ = ({', '.join(f'{value:g}' for value in preference)})"


@torch.no_grad()
def measure(model, adapter, probe):
    """Logits after the last token of each row with λ set in every way, and a front.

    ``probe`` has ``input_ids``, size = (B, L); ``shared``, vectors that all rows have, one after
    the other; ``per_row``, a vector for each row; ``merged``, a vector; ``pairs`` and ``grid``.
    """
    input_ids = torch.tensor(probe["input_ids"])

    def logits():
        last = model(input_ids).logits[:, -1].float()  # size = (B, V)
        return [[round(value, 6) for value in row] for row in last.tolist()]

    numbers = {}
    with adapter.disabled():
        numbers["logits, adapter off"] = logits()
    for preference in probe["shared"]:
        adapter.set_preference(torch.tensor(preference))
        numbers[f"logits, {at(preference)}"] = logits()
    adapter.set_preference(torch.tensor(probe["per_row"]))
    numbers["logits, a λ per row"] = logits()
    with adapter.merged(torch.tensor(probe["merged"])):
        numbers[f"logits, merged at {at(probe['merged'])}"] = logits()
    pairs = FixedPairs(probe["pairs"], adapter.objectives)
    grid, places = torch.tensor(probe["grid"]), range(len(pairs))
    # Small batches, so that the pairs are split over several.
    measured = over_rows(
        margins_over_grid, model, adapter, pairs, places, grid, rows=5, progress=False
    )
    accuracies, _, _ = labelled_statistics(agreement(towards_labels(*measured)))
    numbers["front of accuracies"] = [[round(v, 6) for v in row] for row in accuracies.tolist()]
    return numbers


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
