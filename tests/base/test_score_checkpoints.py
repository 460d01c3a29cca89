"""Score models on disk: Safe-RLHF's layouts, round trips, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore
from tests.base.score_models import CONFIGS, padded

ALL = pytest.mark.parametrize("architecture", CONFIGS)
LAYER = (
    "input_layernorm.weight",
    "mlp.down_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "post_attention_layernorm.weight",
    "self_attn.k_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_proj.weight",
    "self_attn.v_proj.weight",
)
BACKBONE = {"model.embed_tokens.weight", "model.norm.weight"} | {
    f"model.layers.{i}.{name}" for i in range(2) for name in LAYER
}
HEAD = {"score_head.weight", "score_head.bias"}
STATISTICS = {"normalizer.mean", "normalizer.var", "normalizer.count"}


def save_lm(folder, architecture="llama"):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]).eval()
    model.save_pretrained(folder)
    return model


def write_safe_rlhf(folder, older: bool):
    """A tiny look-alike of a published reward model, written without this package."""
    model = save_lm(folder)
    tensors = {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    tensors["score_head.weight"] = torch.randn(1, 16)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["LlamaModelForScore"], "score_dim": 1, "bias": False}
    if older:
        for i in range(2):
            tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    else:
        tensors["score_head.bias"] = torch.tensor([0.25])
        tensors["normalizer.mean"] = torch.tensor([0.5])
        tensors["normalizer.var"] = torch.tensor([4.0])
        tensors["normalizer.count"] = torch.tensor([7])
        config |= {
            "architectures": ["LlamaForScore"],
            "score_bias": True,
            "score_type": "cost",
            "do_normalize": True,
            "normalizer_type": "ExponentialMovingAverage",
            "momentum": 0.9,
        }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model, tensors


def test_the_current_layout(tmp_path):
    _, tensors = write_safe_rlhf(tmp_path, older=False)
    assert set(tensors) == BACKBONE | HEAD | STATISTICS
    model = AutoModelForScore.from_pretrained(tmp_path)
    assert set(model.state_dict()) == set(tensors)
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[name]), name
    assert not model.training


def test_the_role_is_the_callers_and_the_statistics_the_checkpoints(tmp_path):
    write_safe_rlhf(tmp_path, older=False)  # says: cost, normalised
    batch = padded("right")
    raw = AutoModelForScore.from_pretrained(tmp_path)(*batch).end_scores
    reward = AutoModelForScore.from_pretrained(tmp_path, score_type="reward", do_normalize=True)
    cost = AutoModelForScore.from_pretrained(tmp_path, score_type="cost", do_normalize=True)
    assert reward.config.score_type == "reward"
    assert reward.normalizer.momentum == 0.9
    assert torch.allclose(reward(*batch).end_scores, (raw - 0.5) / 2, atol=1e-6)
    assert torch.allclose(cost(*batch).end_scores, raw / 2, atol=1e-6)


def test_the_older_layout(tmp_path):
    lm, tensors = write_safe_rlhf(tmp_path, older=True)
    model = AutoModelForScore.from_pretrained(tmp_path)
    assert set(model.state_dict()) == BACKBONE | {"score_head.weight"} | STATISTICS
    assert model.normalizer.mean.tolist() == [0.0]
    assert model.normalizer.var.tolist() == [1.0]
    assert model.normalizer.count.tolist() == [0]
    ids, mask = padded("right")
    with torch.no_grad():
        hidden = lm.model(ids, attention_mask=mask).last_hidden_state.double()
        scores = model(ids, attention_mask=mask).scores
    expected = hidden @ tensors["score_head.weight"].double().T
    assert torch.allclose(scores[mask].double(), expected[mask], atol=1e-5)


def test_statistics_that_only_the_configuration_has(tmp_path):
    write_safe_rlhf(tmp_path, older=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mean": [0.5], "var": [4.0]}))
    normalizer = AutoModelForScore.from_pretrained(tmp_path).normalizer
    assert (normalizer.mean.item(), normalizer.var.item()) == (0.5, 4.0)


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
    assert set(saved) == BACKBONE | HEAD | STATISTICS


@ALL
@pytest.mark.parametrize("bare", [False, True])
def test_a_language_model_gets_a_fresh_head(architecture, bare, tmp_path):
    lm = save_lm(tmp_path, architecture)
    if bare:
        shutil.rmtree(tmp_path)
        lm.base_model.save_pretrained(tmp_path)
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


def test_weights_in_several_files(tmp_path):
    _, tensors = write_safe_rlhf(tmp_path, older=False)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({k: tensors[k] for k in part}, tmp_path / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = AutoModelForScore.from_pretrained(tmp_path)
    assert model.score_head.bias.tolist() == [0.25]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"names b\.safetensors, which is missing"):
        AutoModelForScore.from_pretrained(tmp_path)


# -- what is refused ----------------------------------------------------------------------


def refuse(folder, line, **options):
    with pytest.raises(UserError, match=line) as caught:
        AutoModelForScore.from_pretrained(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert str(folder) in message


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def reward_model(tmp_path):
    write_safe_rlhf(tmp_path / "reward", older=False)
    return tmp_path / "reward"


def test_a_missing_folder(tmp_path):
    refuse(tmp_path / "nowhere", "no such folder; a model's folder or a hub name is wanted")


def test_a_folder_without_a_model(tmp_path):
    refuse(tmp_path, "holds no model: config.json is missing")


def test_a_folder_without_weights(reward_model):
    (reward_model / "model.safetensors").unlink()
    refuse(reward_model, "holds no weights: model.safetensors is missing")


def test_a_folder_of_pickles(reward_model):
    (reward_model / "model.safetensors").rename(reward_model / "pytorch_model.bin")
    refuse(reward_model, r"only pickled weights \(pytorch_model.bin\)")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_weights(reward_model, size):
    file = reward_model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refuse(reward_model, "model.safetensors is truncated or no safetensors file")


def test_a_broken_configuration(reward_model):
    (reward_model / "config.json").write_text('{"model_type": "llama",')
    refuse(reward_model, "config.json:1: not valid JSON")


def test_an_unknown_architecture(reward_model):
    (reward_model / "config.json").write_text('{"model_type": "perceptron"}')
    refuse(reward_model, "perceptron")


def test_missing_weights_are_named(reward_model):
    edit(reward_model, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    refuse(reward_model, "layers.1.mlp.up_proj.weight is missing")


def test_weights_of_another_shape_are_named(reward_model):
    edit(reward_model, lambda t: t.update({"model.norm.weight": torch.ones(3)}))
    refuse(reward_model, r"norm.weight has (shape \(3,\), not \(16,\)|another shape)")


@pytest.mark.parametrize("key", ["score.weight", "model.layers.9.mlp.up_proj.weight"])
def test_foreign_weights_are_named(reward_model, key):
    edit(reward_model, lambda tensors: tensors.update({key: torch.ones(1, 16)}))
    refuse(reward_model, f"{key.removeprefix('model.')} is unknown to it")


def test_another_architectures_weights(tmp_path):
    save_lm(tmp_path, "gpt2")
    CONFIGS["llama"].save_pretrained(tmp_path)
    refuse(
        tmp_path,
        "is no checkpoint of a LlamaModel: .* and [0-9]+ more are missing",
        fresh_head=True,
    )


def test_a_head_of_another_form(reward_model):
    refuse(reward_model, "the score head has 1 outputs, not 2", score_dim=2)
    edit(reward_model, lambda tensors: tensors.update({"score_head.bias": torch.ones(4)}))
    refuse(reward_model, r"score_head.bias has shape \(4,\), not \(1,\)")
