"""Score models on disk: what is saved, fresh heads, and what is refused.

Published layouts and their scores are in ``test_beaver.py``.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore
from safe_rlhf_panacea.models.auto import check_saved_head
from tests.models import beaver
from tests.models.score_models import CONFIGS, padded

ALL = pytest.mark.parametrize("architecture", CONFIGS)


def save_lm(folder, architecture="llama"):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]).eval()
    model.save_pretrained(folder)
    return model


@ALL
@pytest.mark.parametrize("options", [{}, {"score_dim": 2, "score_bias": False}])
def test_saved_loaded_and_saved_again_is_the_same_bytes(architecture, options, tmp_path):
    kind = "RunningMeanStd"
    model = AutoModelForScore.from_config(CONFIGS[architecture], normalizer_type=kind, **options)
    model.normalizer.update(torch.randn(5, model.config.score_dim))
    model.eval().save_pretrained(tmp_path / "one")
    loaded = AutoModelForScore.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    batch = padded("left")
    assert torch.equal(loaded(*batch).scores, model(*batch).scores)


def test_the_saved_configuration(tmp_path):
    model = AutoModelForScore.from_config(CONFIGS["gpt2"], score_type="cost", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["GPT2ForScore"]
    assert config["score_type"] == "cost"
    assert (config["score_dim"], config["score_bias"]) == (1, True)
    assert (config["do_normalize"], config["normalizer_type"]) == (False, None)
    assert config["dtype"] == "bfloat16"
    assert AutoModelForScore.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert load_file(tmp_path / "model.safetensors")["normalizer.mean"].dtype == torch.float32


def test_a_given_state_is_what_is_saved(tmp_path):
    model = AutoModelForScore.from_config(CONFIGS["llama"])
    state = {k: v + 1 for k, v in model.state_dict().items() if not k.startswith("normalizer")}
    model.save_pretrained(tmp_path, state_dict=state)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["model.norm.weight"], state["model.norm.weight"])
    assert set(saved) == set(model.state_dict())


@ALL
@pytest.mark.parametrize("bare", [False, True])
def test_a_language_model_gets_a_fresh_head_if_one_is_asked_for(architecture, bare, tmp_path):
    lm = save_lm(tmp_path, architecture)
    if bare:
        shutil.rmtree(tmp_path)
        lm.base_model.save_pretrained(tmp_path)
    for check in (AutoModelForScore.from_pretrained, check_saved_head):
        with pytest.raises(UserError, match=r"no reward model: its weights lack score_head\.w"):
            check(str(tmp_path))
    torch.manual_seed(0)
    model = AutoModelForScore.from_pretrained(tmp_path, fresh_head=True, score_dim=3)
    ids, mask = padded("right")
    with torch.no_grad():
        hidden = lm.base_model(ids, attention_mask=mask).last_hidden_state
        output = model(ids, attention_mask=mask)
    assert torch.allclose(output.last_hidden_state[mask], hidden[mask], atol=1e-6)
    assert output.end_scores.shape == (3, 3)
    assert 0.01 < model.score_head.weight.std().item() < 0.03
    assert model.score_head.bias.tolist() == [0.0] * 3
    assert model.normalizer.var.tolist() == [1.0] * 3


def test_safe_rlhfs_own_files_are_asked_for_a_head(tmp_path):
    """It saves pickles, in one file or several, and its loader makes up what is missing."""
    tensors = beaver.write_beaver(tmp_path / "reward", "older")
    check_saved_head(str(tmp_path / "reward"))
    check_saved_head("nobody/nothing")
    index = tmp_path / "pytorch_model.bin.index.json"
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    check_saved_head(str(tmp_path))
    del tensors["score_head.weight"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no reward model"):
        check_saved_head(str(tmp_path))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "some.bin")}))
    with pytest.raises(UserError, match="no reward model"):
        check_saved_head(str(tmp_path))


def refuse(folder, line, **options):
    with pytest.raises(UserError, match=line) as caught:
        AutoModelForScore.from_pretrained(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message.replace(str(folder), "")) < 350
    assert str(folder) in message


def cut(size):
    def change(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return change


def edit(change):
    def changed(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def config(text):
    return lambda folder: (folder / "config.json").write_text(text)


CHANGES = [
    (shutil.rmtree, "no such folder; a model's folder or a hub name is wanted"),
    (lambda f: (f / "config.json").unlink(), "holds no model: config.json is missing"),
    (
        lambda f: (f / "model.safetensors").unlink(),
        "holds no weights: model.safetensors is missing",
    ),
    (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"only pickled weights \(pytorch_model.bin\)",
    ),
    *((cut(n), "is truncated or no safetensors file") for n in (0, 5, 100, -1)),
    (config('{"model_type": "llama",'), "config.json:1: not valid JSON"),
    (config('{"model_type": "perceptron"}'), "perceptron"),
    (
        edit(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")),
        "layers.1.mlp.up_proj.weight is missing",
    ),
    (
        edit(lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)})),
        r"norm.weight has (shape \(3,\), not \(16,\)|another shape)",
    ),
    *(
        (edit(lambda tensors, k=key: tensors.update({k: torch.ones(1, 16)})), f"{shown} is unkno")
        for key, shown in (
            ("score.weight", "score.weight"),
            ("model.layers.9.mlp.up_proj.weight", "layers.9.mlp.up_proj.weight"),
        )
    ),
    (
        edit(lambda tensors: tensors.update({"score_head.bias": torch.ones(4)})),
        r"score_head.bias has shape \(4,\), not \(1,\)",
    ),
]


@pytest.mark.parametrize(("change", "line"), CHANGES)
def test_damage_is_named(change, line, tmp_path):
    beaver.write_beaver(tmp_path / "reward", "todays")
    change(tmp_path / "reward")
    refuse(tmp_path / "reward", line)


def test_another_architectures_weights_and_another_width(tmp_path):
    save_lm(tmp_path, "gpt2")
    CONFIGS["llama"].save_pretrained(tmp_path)
    line = "is no checkpoint of a LlamaModel: .* and [0-9]+ more are missing"
    refuse(tmp_path, line, fresh_head=True)
    beaver.write_beaver(tmp_path / "reward", "unified", shards=2)
    refuse(tmp_path / "reward", "the score head has 1 outputs, not 2", score_dim=2)
    (tmp_path / "reward" / "model-00002-of-00002.safetensors").unlink()
    refuse(tmp_path / "reward", r"names model-00002-of-00002\.safetensors, which is missing")
