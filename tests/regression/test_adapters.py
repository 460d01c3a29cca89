"""Adapters that earlier versions saved, read by today's code, and their numbers by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.regression.adapters import (
    ADAPTERS,
    KINDS,
    at,
    load_recorded,
    measure,
    record,
    reference_of,
    tiny_base,
)

RECORDED = sorted(path.parent for path in ADAPTERS.glob("v*/**/reference.json"))
EACH = pytest.mark.parametrize(
    "folder", RECORDED, ids=lambda path: f"{path.parent.name}/{path.name}"
)
WEIGHTS = "adapter_model.safetensors"


def check(folder):
    """Hold all numbers of an adapter against its reference."""
    reference = reference_of(folder)
    values, tolerances = reference["values"], reference["tolerances"]
    model, adapter = load_recorded(folder, values)
    assert list(adapter.objectives) == values["objectives"]
    measured = measure(model, adapter, values["probe"])
    assert set(measured) == set(values["numbers"])
    for what, expected in values["numbers"].items():
        atol = tolerances["front" if what.startswith("front") else "logits"]
        np.testing.assert_allclose(measured[what], expected, rtol=0, atol=atol, err_msg=what)


@EACH
def test_todays_code_gives_what_every_earlier_version_gave(folder):
    check(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_recorded_today_is_read_again(kind, tmp_path):
    record(kind, tmp_path)
    check(tmp_path)
    assert len(reference_of(tmp_path)["values"]["probe"]["pairs"]) >= 8


def delta_by_hand(folder, layer, preference):
    """W(λ) - W0 in float64, from the files alone."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = {k: v.double().numpy() for k, v in load_file(folder / WEIGHTS).items()}
    u, v, sigma = (tensors[f"{layer}.lora_{name}"] for name in ("U", "V", "sigma"))
    assert np.abs(sigma).min() > 0 and np.abs(u).min() > 0  # nothing hides behind a zero
    singular = list(sigma)
    if config["pref_dim"]:
        s = tensors.get(f"{layer}.lora_s", np.array([config["fixed_scaling"]], dtype=np.float64))
        singular += list(s * np.array(preference))
    return config["lora_scaling"] / config["lora_dim"] * u @ np.diag(singular) @ v.T


@EACH
def test_the_recorded_logits_are_those_of_weights_written_by_hand(folder):
    values = reference_of(folder)["values"]
    preference = values["probe"]["shared"][0]
    model = tiny_base({**values["base"], "dtype": "float32"})
    soup = [folder / name for name in values["ingredients"]]
    first = soup[0] if soup else folder
    for layer in {name.rpartition(".")[0] for name in load_file(first / WEIGHTS)}:
        if soup:
            deltas = [delta_by_hand(part, layer, []) for part in soup]
            delta = sum(w * d for w, d in zip(preference, deltas, strict=True))
        else:
            delta = delta_by_hand(folder, layer, preference)
        weight = model.get_submodule(layer).weight
        delta = delta.T if "gpt2" in folder.name else delta
        weight.data = (weight.double() + torch.from_numpy(delta)).float()
    with torch.no_grad():
        found = model(torch.tensor(values["probe"]["input_ids"])).logits[:, -1]
    numbers = dict(values["numbers"])
    expected = numbers.pop(f"logits, {at(preference)}")
    tolerance = 0.15 if values["base"]["dtype"] == "bfloat16" else 2e-5
    np.testing.assert_allclose(found.numpy(), expected, atol=tolerance)
    # λ, and whether the adapter is on, are to be seen in the numbers.
    others = [rows for name, rows in numbers.items() if name.startswith("logits")]
    assert all(np.abs(np.array(other) - expected).max() > 0.5 for other in others[:2])


@EACH
def test_the_recorded_front_is_that_of_probabilities_computed_one_by_one(folder):
    values = reference_of(folder)["values"]
    model, adapter = load_recorded(folder, values)

    def log_prob(ids, start):
        with torch.no_grad():
            table = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        return sum(table[t - 1, ids[t]].item() for t in range(start, len(ids)))

    def margin(pair):
        same = zip(pair["better"], pair["worse"], strict=False)
        start = next(i for i, (a, b) in enumerate(same) if a != b)
        return log_prob(pair["better"], start) - log_prob(pair["worse"], start)

    pairs = values["probe"]["pairs"]
    assert len(pairs) >= 12
    with adapter.disabled():
        reference = [margin(pair) for pair in pairs]
    rows = zip(values["probe"]["grid"], values["numbers"]["front of accuracies"], strict=True)
    for preference, expected in rows:
        adapter.set_preference(torch.tensor(preference))
        margins = [margin(pair) - r for pair, r in zip(pairs, reference, strict=True)]
        for objective, accuracy in enumerate(expected):
            signs = [
                m * pair["labels"][objective]
                for m, pair in zip(margins, pairs, strict=True)
                if pair["labels"][objective]
            ]
            assert np.mean(np.array(signs) > 0) == pytest.approx(accuracy, abs=1e-6)
