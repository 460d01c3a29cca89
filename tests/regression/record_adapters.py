"""Saves a set of adapters with today's code, with the numbers that they give.

    python -m tests.regression.record_adapters

writes ``references/adapters/v<version>-<commit>``. Record a set with each release, and whenever
what is saved changes, and keep all earlier sets: users have such adapters on their disks.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.base.run_record import git_state, package_versions
from safe_rlhf_panacea.fronts.accuracy_front import margins_over_grid
from safe_rlhf_panacea.io import atomic_folder
from safe_rlhf_panacea.preference import preference_grid
from tests.regression.adapter_numbers import FixedPairs, load_recorded, measure
from tests.regression.tiny_base import DTYPES, frozen_normal, frozen_stream, tiny_base

ADAPTERS = Path(__file__).with_name("references") / "adapters"
VOCAB = 24
SPECIAL = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
ONE_LAYER = {
    **SPECIAL,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
LLAMA = {
    "model_type": "llama",
    "config": ONE_LAYER,
    "seed": 1,
    "std": 0.25,
    "dtype": "float32",
}
# Its linear layers are transformers' Conv1D, which keeps the transpose.
GPT2 = {
    **LLAMA,
    "model_type": "gpt2",
    "config": {**SPECIAL, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "seed": 2,
}
TWO_LAYERS = {**LLAMA, "config": {**ONE_LAYER, "num_hidden_layers": 2}}
# A factor of 2.5: neither 1 nor lora_scaling, nor a power of two.
TWO = AdapterConfig(lora_dim=4, pref_dim=2, lora_scaling=10.0, objectives=("helpful", "harmless"))
THREE = replace(TWO, pref_dim=3, objectives=("helpful", "harmless", "concise"))
# Name: base model, the adapter (or each ingredient of the soup), the type of the saved tensors.
CASES = {
    "llama-m2": (TWO_LAYERS, TWO, "float32"),
    "llama-m2-three-values-each": (LLAMA, replace(TWO, pref_rank=3), "float32"),
    "llama-m3": (LLAMA, THREE, "float32"),
    "llama-m3-scaling-per-objective": (
        LLAMA,
        replace(THREE, scaling_per_objective=True),
        "float32",
    ),
    "llama-m2-fixed-scaling": (LLAMA, replace(TWO, fixed_scaling=0.7), "float32"),
    "gpt2-m2": (GPT2, replace(TWO, lora_module_name="h."), "float32"),
    "llama-m2-bf16": ({**LLAMA, "dtype": "bfloat16"}, TWO, "bfloat16"),
    "llama-m2-bf16-in-fp32": (LLAMA, TWO, "bfloat16"),
    "llama-soup": (LLAMA, replace(TWO, pref_dim=0, objectives=()), "float32"),
}
# In float32 the order of sums differs between processors by about 1e-6 here, while a factor that
# is wrong by a thousandth moves a logit by more than 1e-3. In bfloat16 a step is up to 0.03 at
# these logits. Pairs whose margin is nearer to 0 than the gap are left out, so that no rounding
# moves an accuracy.
LOGITS = {"float32": 1e-4, "bfloat16": 0.15}
GAP = {"float32": 0.02, "bfloat16": 0.5}


def save_filled(base, config, saved_in, folder, seed):
    """Save an adapter all of whose tensors are random and none is 0."""
    adapter = inject_adapter(tiny_base({**base, "dtype": saved_in}), config)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            noise = frozen_normal(seed, name, parameter.shape)
            singular = name.endswith(("lora_sigma", "lora_s"))
            parameter.copy_((0.6 + 0.2 * noise if singular else 0.3 * noise).to(DTYPES[saved_in]))
    adapter.save(folder)


def make_probe(objectives):
    """The tokens and preference vectors of ``adapter_numbers.measure``."""
    stream = frozen_stream(3, "probe")
    grid = preference_grid(objectives, 0.25 if objectives == 2 else 0.5)
    vectors = [[0.3, 0.7], [0.9, 0.1]] if objectives == 2 else [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]
    probe = {
        "input_ids": stream.randint(3, VOCAB, (2, 7)).tolist(),
        "shared": vectors,
        "per_row": vectors[::-1],
        "merged": vectors[0],
        "grid": [[round(value, 6) for value in row] for row in grid.tolist()],
        "pairs": [],
    }
    for _ in range(40):
        prompt = stream.randint(3, VOCAB, 3).tolist()
        lengths = stream.randint(2, 5, 2)
        better, worse = (prompt + stream.randint(3, VOCAB, n).tolist() for n in lengths)
        labels = [1, *stream.randint(-1, 2, objectives - 1).tolist()]  # 0: no label
        probe["pairs"].append({"better": better, "worse": worse, "labels": labels})
    return probe


def clear_pairs(model, adapter, probe, gap):
    """Twenty pairs whose margin is farther than ``gap`` from 0 at every λ of the grid."""
    pairs = FixedPairs(probe["pairs"], adapter.objectives)
    batch = pairs.get_collator()([pairs[i] for i in range(len(pairs))])
    margins = margins_over_grid(model, adapter, batch, torch.tensor(probe["grid"]))
    clear = margins.abs().amin(dim=0) > gap  # size = (B,)
    return [pair for pair, kept in zip(probe["pairs"], clear.tolist(), strict=True) if kept][:20]


def record(name, folder):
    """Save one adapter, load it again, and write down the numbers that it gives."""
    base, config, saved_in = CASES[name]
    objectives = config.objectives or TWO.objectives
    ingredients = [] if config.pref_dim else list(objectives)
    for index, place in enumerate(ingredients or ["."]):
        save_filled(base, config, saved_in, folder / place, seed=10 + index)
    probe = make_probe(len(objectives))
    values = {"base": base, "ingredients": ingredients, "objectives": [*objectives]}
    model, adapter = load_recorded(folder, values)
    probe["pairs"] = clear_pairs(model, adapter, probe, GAP[base["dtype"]])
    reference = {
        "name": name,
        "values": {**values, "probe": probe, "numbers": measure(model, adapter, probe)},
        "tolerances": {"logits": LOGITS[base["dtype"]], "front": 1e-6},
        "recorded": {"versions": package_versions(), "git": git_state()},
    }
    text = json.dumps(reference, indent=2, ensure_ascii=False, allow_nan=False)
    # A row of numbers is one line.
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda row: " ".join(row.group().split()), text)
    (folder / "reference.json").write_text(text + "\n", encoding="utf-8")


def main():
    state = git_state()
    if state is None or state["modified"]:
        sys.exit("commit first: a set of adapters is named by the commit that saved it")
    name = f"v{safe_rlhf_panacea.__version__}-{state['commit'][:8]}"
    with atomic_folder(ADAPTERS / name) as folder:
        for case in CASES:
            (folder / case).mkdir()
            record(case, folder / case)
    print(ADAPTERS / name)


if __name__ == "__main__":
    main()
