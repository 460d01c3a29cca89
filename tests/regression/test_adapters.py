"""The suite of recorded adapters, on those in the repository."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.adapter.layer import SvdLoraLinear
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.regression import adapter_recording, main, references
from safe_rlhf_panacea.regression.adapter_cases import CASES
from safe_rlhf_panacea.regression.adapters import load_recorded
from safe_rlhf_panacea.regression.tiny_base import tiny_base
from tests.regression.program import run

ADAPTERS = main.REFERENCES / "adapters"
RECORDED = sorted(path.parent for path in ADAPTERS.glob("v*/**/reference.json"))
EACH = pytest.mark.parametrize(
    "folder", RECORDED, ids=lambda path: f"{path.parent.name}/{path.name}"
)
WEIGHTS = "adapter_model.safetensors"


def values_of(folder):
    return references.read_reference(folder / "reference.json")["values"]


@pytest.fixture
def copied(tmp_path):
    """A set with one adapter of two objectives, to be damaged."""
    source = next(path for path in RECORDED if path.name == "llama-m2")
    target = tmp_path / "references" / "adapters" / "v0" / "llama-m2"
    shutil.copytree(source, target)
    return target


def run_copied(capsys, copied):
    return run(capsys, "--suite", "adapters", "--references", copied.parents[2])


def test_todays_code_gives_what_every_earlier_version_gave(capsys):
    code, out, errors = run(capsys, "--suite", "adapters")
    assert (code, errors) == (0, [])
    assert f"adapters: {7 * len(RECORDED)} checks, all the same" in out


def test_every_kind_was_recorded():
    kinds = {path.name for path in RECORDED}
    assert kinds >= {
        "llama-m2",
        "llama-m3",
        "llama-m3-scaling-per-objective",
        "llama-m2-fixed-scaling",
        "gpt2-m2",
        "llama-m2-bf16",
        "llama-soup",
    }
    assert sum(file.stat().st_size for file in ADAPTERS.rglob("*")) < 300_000 * len(
        {path.parent for path in RECORDED}
    )


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
    values = values_of(folder)
    preference = values["probe"]["shared"][0]
    model = tiny_base({**values["base"], "dtype": "float32"})
    soup = [folder / name for name in values["ingredients"]]
    first = soup[0] if soup else folder
    layers = {name.rpartition(".")[0] for name in load_file(first / WEIGHTS)}
    for layer in layers:
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
    key = f"logits, λ = ({', '.join(f'{value:g}' for value in preference)})"
    tolerance = 0.15 if values["base"]["dtype"] == "bfloat16" else 2e-5
    np.testing.assert_allclose(found.numpy(), values["numbers"][key], atol=tolerance)
    # λ, and whether the adapter is on, are to be seen in the numbers.
    others = [
        v for name, v in values["numbers"].items() if name.startswith("logits") and name != key
    ]
    for other in [others[0], others[1]]:
        assert np.abs(np.array(other) - values["numbers"][key]).max() > 0.5


@EACH
def test_the_recorded_front_is_that_of_probabilities_computed_one_by_one(folder):
    values = values_of(folder)
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


def test_the_random_numbers_are_the_frozen_ones():
    weight = tiny_base(CASES["llama-m3"].base).model.norm.weight[:2].tolist()
    # RandomState([1, crc32("model.norm.weight")]), as it was when the first set was recorded.
    assert weight == pytest.approx([1.0745209, 1.1408831], abs=1e-6)


def test_a_factor_wrong_by_a_thousandth_differs(copied, capsys, monkeypatch):
    right = SvdLoraLinear.singular_values
    monkeypatch.setattr(
        SvdLoraLinear, "singular_values", lambda self, preference: 1.001 * right(self, preference)
    )
    code, out, errors = run_copied(capsys, copied)
    assert (code, errors) == (1, [])
    cells = [re.split(r"\s{2,}", line) for line in out.splitlines()[3:-2]]
    verdicts = {re.sub(r", (point )?\d+, J?\d+$", "", row[1]): row[-1] for row in cells}
    assert verdicts == {
        "objectives in place": "same",
        "logits, adapter off": "same",  # the base model is not to blame
        "logits, λ = (0.3, 0.7)": "DIFFERS",
        "logits, λ = (0.9, 0.1)": "DIFFERS",
        "logits, a λ per row": "DIFFERS",
        "logits, merged at λ = (0.3, 0.7)": "DIFFERS",
        "front of accuracies": "same",  # no pair is that near to a tie
    }


def test_objectives_in_another_order_differ(copied, capsys):
    path = copied / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "objectives": config["objectives"][::-1]}), "utf-8")
    code, out, _ = run_copied(capsys, copied)
    assert code == 1
    assert [
        line for line in out.splitlines() if "objectives in place" in line and "DIFFERS" in line
    ]


def truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def newer_format(folder):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "format": 99}), encoding="utf-8")


def half_a_reference(folder):
    text = (folder / "reference.json").read_text(encoding="utf-8")
    (folder / "reference.json").write_text(text[: len(text) // 2], encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, f"{WEIGHTS} is truncated"),
        (newer_format, "adapter_config.json: the adapter is of format 99, this version"),
        (half_a_reference, "not valid JSON"),
    ],
)
def test_what_is_damaged_could_not_run_and_the_rest_did(copied, capsys, damage, message):
    shutil.copytree(copied, copied.with_name("whole"))
    damage(copied)
    code, out, errors = run_copied(capsys, copied)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("error: ") and message in errors[0]
    assert "adapters: 7 checks, all the same; 1 COULD NOT RUN" in out


def test_without_references_nothing_passes(tmp_path, capsys):
    code, _, errors = run(capsys, "--suite", "adapters", "--references", tmp_path)
    assert (code, len(errors)) == (2, 1) and "no references in" in errors[0]


@pytest.fixture
def commit(monkeypatch):
    state = {"commit": "0123456789abcdef", "modified": False}
    for module in (references, adapter_recording):
        monkeypatch.setattr(module, "git_state", lambda: state)
    kinds = ("llama-m2-bf16", "llama-soup")
    monkeypatch.setattr(adapter_recording, "CASES", {name: CASES[name] for name in kinds})
    return state


def test_recorded_anew_and_read_again(commit, tmp_path, capsys):
    flags = ["--references", tmp_path]
    code, out, _ = run(capsys, "--record", "adapters", *flags)
    (folder,) = (tmp_path / "adapters").iterdir()
    assert (code, folder.name) == (0, "v0.1.0-01234567")
    assert {Path(line) for line in out.splitlines()} == {
        p for p in folder.rglob("*") if p.is_file()
    }
    assert run(capsys, "--suite", "adapters", *flags)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, _, errors = run(capsys, "--record", "adapters", *flags)
    assert (code, len(errors)) == (2, 1) and "is not overwritten" in errors[0]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_an_interrupted_recording_leaves_nothing(commit, tmp_path, capsys, monkeypatch):
    def broken(*args):
        raise UserError("interrupted")

    monkeypatch.setattr(adapter_recording, "measure", broken)
    code, _, errors = run(capsys, "--record", "adapters", "--references", tmp_path)
    assert (code, errors) == (2, ["error: interrupted"])
    assert not list((tmp_path / "adapters").iterdir())


def test_a_recipe_with_a_part_missing_is_one_line():
    base = CASES["llama-m3"].base
    for damaged in ({k: v for k, v in base.items() if k != "seed"}, {**base, "dtype": "int8"}):
        with pytest.raises(UserError, match=r"seed|int8"):
            tiny_base(damaged)
