"""Published reward and cost models, today's layout and the older one, by tiny look-alikes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble, RewardModel
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.spec import reward_specs
from tests.models import beaver
from tests.models.llama_by_hand import scores_by_hand

LAYOUTS = pytest.mark.parametrize("layout", beaver.CONFIGS)
FRESH = {
    "normalizer.mean": torch.zeros(1),
    "normalizer.var": torch.ones(1),
    "normalizer.count": torch.zeros(1, dtype=torch.long),
}


def batch(side="right"):
    """Rows of 7, 4 and 1 tokens, padded with the last id of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((3, 7), beaver.PAD)
    mask = torch.zeros(3, 7, dtype=torch.bool)
    for row, length in enumerate((7, 4, 1)):
        place = slice(0, length) if side == "right" else slice(7 - length, 7)
        ids[row, place] = torch.randint(0, beaver.PAD, (length,), generator=generator)
        mask[row, place] = True
    return ids, mask


def end_scores(tensors):
    ids, mask = batch()
    rows = [scores_by_hand(tensors, ids[i, mask[i]].tolist()) for i in range(3)]
    return np.array([row[-1] for row in rows])


@torch.no_grad()
def ends(model):
    """The end scores of ``batch``, size = (3,)."""
    return model(*batch()).end_scores.squeeze(-1).float().numpy()


@LAYOUTS
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_key_is_loaded(layout, shards, dtype, tmp_path):
    tensors = beaver.write_beaver(tmp_path, layout, shards=shards, dtype=dtype)
    assert (tmp_path / "model.safetensors").exists() == (shards == 1)
    state = AutoModelForScore.from_pretrained(tmp_path).state_dict()
    # The frequencies are computed; statistics that are not there start fresh.
    wanted = FRESH | {k: v for k, v in tensors.items() if not k.endswith("inv_freq")}
    assert set(state) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(state[name], value), name
        assert state[name].dtype == value.dtype, name
    assert ("score_head.bias" in state) == (layout != "older")


@LAYOUTS
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_a_llama_written_by_hand(layout, side, tmp_path):
    tensors = beaver.write_beaver(tmp_path, layout)
    model = AutoModelForScore.from_pretrained(tmp_path)
    ids, mask = batch(side)
    with torch.no_grad():
        output = model(ids, attention_mask=mask)
    for row in range(3):
        expected = scores_by_hand(tensors, ids[row, mask[row]].tolist())
        np.testing.assert_allclose(output.scores[row, mask[row], 0].numpy(), expected, atol=2e-5)
        assert output.end_scores[row, 0].item() == pytest.approx(expected[-1], abs=2e-5)
        assert np.abs(expected).max() > 0.1


def test_a_checkpoint_in_bfloat16(tmp_path):
    tensors = beaver.write_beaver(tmp_path, "todays", dtype=torch.bfloat16)
    for dtype, tolerance in ((None, 0.15), (torch.float32, 2e-5)):
        model = AutoModelForScore.from_pretrained(tmp_path, dtype=dtype)
        np.testing.assert_allclose(ends(model), end_scores(tensors), atol=tolerance)


def test_the_pad_token_of_the_odd_vocabulary_stays(tmp_path, recwarn):
    tensors = beaver.write_beaver(tmp_path, "older")
    model, tokenizer = load_pretrained_models(tmp_path, auto_model_type=AutoModelForScore)
    assert len(tokenizer) == model.config.vocab_size == beaver.VOCAB
    assert tokenizer.pad_token_id == model.config.pad_token_id == beaver.VOCAB - 1
    assert torch.equal(model.get_input_embeddings().weight, tensors["model.embed_tokens.weight"])
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_the_role_is_the_callers_whatever_the_configuration_says(tmp_path):
    tensors = beaver.write_beaver(tmp_path, "unified")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["score_type"], config["do_normalize"]) == ("reward", True)
    raw = end_scores(tensors)
    mean, std = -0.0757, 1.5
    expected = {"reward": (raw - mean) / std, "cost": raw / std, "critic": raw}
    for role, normalised in expected.items():
        model = AutoModelForScore.from_pretrained(tmp_path, score_type=role, do_normalize=True)
        plain = AutoModelForScore.from_pretrained(tmp_path, score_type=role)
        np.testing.assert_allclose(ends(model), normalised, atol=2e-5)
        np.testing.assert_allclose(ends(plain), raw, atol=2e-5)
        plain.set_normalize(True)
        assert np.array_equal(ends(plain), ends(model))


def test_the_moving_average_goes_on_where_it_was(tmp_path):
    beaver.write_beaver(tmp_path, "unified")
    model = AutoModelForScore.from_pretrained(tmp_path).train()
    ends = model(*batch()).end_scores.double()
    mean, var = ends.mean().item(), ends.var(unbiased=False).item()
    assert model.normalizer.mean.item() == pytest.approx(0.9 * -0.0757 + 0.1 * mean, abs=1e-5)
    assert model.normalizer.var.item() == pytest.approx(0.9 * 2.25 + 0.1 * var, abs=1e-4)
    assert model.normalizer.count.item() == 73


@pytest.mark.parametrize("form", [[-0.0757], -0.0757], ids=["list", "number"])
def test_statistics_in_the_configuration_alone(form, tmp_path):
    beaver.write_beaver(tmp_path, "older")
    change = {"mean": form, "var": 2.25 if isinstance(form, float) else [2.25]}
    beaver.write_config(tmp_path, {**beaver.OLDER, **change, "torch_dtype": "float32"})
    normalizer = AutoModelForScore.from_pretrained(tmp_path).normalizer
    assert normalizer.mean.tolist() == pytest.approx([-0.0757])
    assert normalizer.var.tolist() == [2.25]


@LAYOUTS
def test_saved_loaded_and_saved_again_is_the_same_bytes(layout, tmp_path):
    beaver.write_beaver(tmp_path / "published", layout)
    before = AutoModelForScore.from_pretrained(tmp_path / "published")
    before.save_pretrained(tmp_path / "one")
    loaded = AutoModelForScore.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with torch.no_grad():
        assert torch.equal(loaded(*batch()).scores, before(*batch()).scores)
    saved = load_file(tmp_path / "one" / "model.safetensors")
    assert set(FRESH) < set(saved)
    assert not [name for name in saved if name.endswith("inv_freq")]


@pytest.mark.parametrize("files", [1, 2])
def test_pickles_are_refused_with_a_command_that_converts_them(files, tmp_path, monkeypatch):
    tensors = beaver.write_beaver(tmp_path, "older")
    (tmp_path / "model.safetensors").unlink()
    names = list(tensors)
    for part in range(files):
        file = "pytorch_model.bin" if files == 1 else f"pytorch_model-{part}-of-{files}.bin"
        torch.save({name: tensors[name] for name in names[part::files]}, tmp_path / file)
    torch.save({"a": 1}, tmp_path / "training_args.bin")
    with pytest.raises(UserError, match="only pickled weights") as caught:
        AutoModelForScore.from_pretrained(tmp_path)
    line = str(caught.value)
    assert str(tmp_path) in line and "\n" not in line
    command = re.search(r'python -c "(.*)"$', line).group(1)
    assert not set(command) & set('$`\\!"')  # as safe in a shell as it reads
    monkeypatch.chdir(tmp_path)
    exec(command, {})
    model = AutoModelForScore.from_pretrained(tmp_path)
    np.testing.assert_allclose(ends(model), end_scores(tensors), atol=2e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_cost_model_enters_with_sign_minus_one(normalize, tmp_path):
    folders = {"helpful": "todays", "harmless": "unified"}
    tensors = {
        name: beaver.write_beaver(tmp_path / name, layout, seed=seed)
        for seed, (name, layout) in enumerate(folders.items())
    }
    specs = reward_specs(
        [(name, str(tmp_path / name)) for name in folders],
        scales=[("harmless", "5")],
        signs=[("harmless", "-1")],
    )
    models = [
        AutoModelForScore.from_pretrained(spec.path, score_type=spec.role, do_normalize=normalize)
        for spec in specs
    ]
    models = [RewardModel("", model, None, None, (), is_classifier=False) for model in models]
    ensemble = RewardEnsemble(specs, [model.scorer(0) for model in models], models)
    found = ensemble(Responses(*batch(), prompt_length=0)).numpy()
    cost = end_scores(tensors["harmless"]) / (1.5 if normalize else 1.0)
    np.testing.assert_allclose(found[:, 0], end_scores(tensors["helpful"]), atol=2e-5)
    np.testing.assert_allclose(found[:, 1], -5 * cost, atol=2e-4)
