"""A LoRA of PEFT and a Panacea adapter at one λ, loaded as models: their base with the update."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter, load_adapter
from safe_rlhf_panacea.adapter.fingerprint import UPDATE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models
from safe_rlhf_panacea.models.adapted import Adapted, find_adapter
from safe_rlhf_panacea.preference import PreferenceError
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.spec import RewardSpec
from tests.export.models import WITHOUT, fresh, saved, tokens
from tests.tiny import tiny_tokenizer

AT = "helpful=0.3,harmless=0.7"


def write_lora(base, folder, *, task="CAUSAL_LM", model=AutoModelForCausalLM, **options):
    """A LoRA that does something, as PEFT saves it; the model with it."""
    torch.manual_seed(3)
    config = peft.LoraConfig(task_type=task, r=4, **options)
    kwargs = {"num_labels": 1, "pad_token_id": 0} if task == "SEQ_CLS" else {}
    wrapped = peft.get_peft_model(model.from_pretrained(base, **kwargs), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"lora_alpha": 32}),
        ("llama", {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}),
        ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*q_proj": 32}}),
        ("conv1d", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("tied", {"target_modules": ["v_proj", "down_proj"], "lora_alpha": 64}),
    ],
)
@torch.no_grad()
def test_a_lora_of_peft(kind, options, tmp_path):
    base, _ = saved(kind, tmp_path)
    wrapped = write_lora(base, tmp_path / "lora", **options)
    wrapped.config.save_pretrained(tmp_path / "lora")  # some programs write this too
    model, tokenizer = load_pretrained_models(tmp_path / "lora")
    difference = model(tokens()).logits - wrapped(tokens()).logits
    assert difference.abs().max() < 1e-4
    assert (model(tokens()).logits - fresh(base)(tokens()).logits).abs().max() > 0.1
    assert len(tokenizer) == len(tiny_tokenizer()) and type(model) is type(fresh(base))
    assert all(p.requires_grad for p in model.parameters())
    model.save_pretrained(tmp_path / "again")  # what is trained on top of it is a whole model
    assert torch.equal(fresh(tmp_path / "again")(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("kind", ["llama", "per objective", "conv1d", "tied", WITHOUT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_panacea_adapter_is_what_merging_makes_of_it(kind, dtype, tmp_path):
    base, adapter = saved(kind, tmp_path)
    state = torch.random.get_rng_state()
    name = adapter if kind == WITHOUT else f"{adapter}@{AT}"
    model, _ = load_pretrained_models(name, dtype=dtype)
    assert torch.equal(torch.random.get_rng_state(), state)
    whole = fresh(base)
    load_adapter(whole, adapter).merge(torch.empty(0) if kind == WITHOUT else AT)
    expected = {n: p.to(dtype) for n, p in whole.named_parameters() if "lora_" not in n}
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys() and not hasattr(model, "panacea_adapter")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(value.dtype == dtype for value in found.values())


@torch.no_grad()
def test_a_score_model_is_made_of_either(tmp_path):
    base, adapter = saved("llama", tmp_path)
    write_lora(base, tmp_path / "lora")
    options = {"auto_model_type": AutoModelForScore, "auto_model_kwargs": {"fresh_head": True}}
    for name in (tmp_path / "lora", f"{adapter}@{AT}"):
        model, _ = load_pretrained_models(name, **options)
        whole, _ = load_pretrained_models(name)
        found = model(tokens(), attention_mask=torch.ones_like(tokens())).last_hidden_state
        assert (found - whole.model(tokens()).last_hidden_state).abs().max() < 1e-5


@torch.no_grad()
def test_a_lora_on_a_classifier_is_a_reward_model(tmp_path):
    """The head is in the LoRA, as TRL's reward trainer leaves it."""
    base, _ = saved("llama", tmp_path)
    kind = AutoModelForSequenceClassification
    wrapped = write_lora(base, tmp_path / "lora", task="SEQ_CLS", model=kind)
    tokenizer = tiny_tokenizer()
    specs = [RewardSpec("helpful", str(tmp_path / "lora"))]
    rewards = load_rewards(specs, tokenizer, [2], RewardLoading(64))
    model = rewards.models[0].model
    assert (model(tokens()).logits - wrapped(tokens()).logits).abs().max() < 1e-4
    assert torch.equal(model.score.weight, wrapped.base_model.model.score.weight)


def refuse(path, error=UserError, **options):
    with pytest.raises(error) as found:
        load_pretrained_models(path, **options)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_what_is_told(tmp_path):
    base, adapter = saved("llama", tmp_path)
    message = refuse(adapter)
    assert f"write {adapter}@helpful=0.5,harmless=0.5" in message
    assert f"safe_rlhf_panacea.export --adapter {adapter} --format merged --preference" in message
    refuse(f"{adapter}@helpful=1,harmless=1", PreferenceError)
    assert "leave out @1,0" in refuse(f"{base}@1,0")
    lora = tmp_path / "lora"
    write_lora(base, lora)
    assert "leave out @1,0" in refuse(f"{lora}@1,0")
    rewards = {"a policy and no reward model": f"{adapter}@{AT}", "lack score_head": lora}
    for message, path in rewards.items():
        with pytest.raises(UserError, match=message):
            load_rewards([RewardSpec("a", str(path))], tiny_tokenizer(), [2], RewardLoading(64))
    for flags, what in (
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias all"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
    ):
        write_lora(base, tmp_path / what, **flags)
        message = refuse(tmp_path / what)
        assert what in message and "merge_and_unload" in message
    named = adapter / "adapter_config.json"
    named.write_text(json.dumps({**json.loads(named.read_text()), "base_model": f"{adapter}@{AT}"}))
    assert "is an adapter on itself" in refuse(f"{adapter}@{AT}")
    file = lora / "adapter_config.json"
    values = json.loads(file.read_text())
    for change, what in (
        ({"peft_type": "IA3"}, "neither a Panacea adapter nor a LoRA"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path must be a text"),
        ({"base_model_name_or_path": "/no/such"}, f"the base model of {lora}, an adapter"),
        ({"base_model_name_or_path": str(lora)}, "is an adapter on itself"),
        ({"base_model_name_or_path": f"{adapter}@{AT}"}, "is an adapter on itself"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern.q_proj must be a number"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern must be"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern has '(', which is no regular expression"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
    ):
        file.write_text(json.dumps({**values, **change}))
        assert what in refuse(lora)
    file.write_text(json.dumps(values))
    tensors = load_file(lora / "adapter_model.safetensors")
    key = next(key for key in tensors if "lora_A" in key)
    save_file({**tensors, key: tensors[key][:, :-1].clone()}, lora / "adapter_model.safetensors")
    assert "has no place in this model" in refuse(lora)
    save_file({**tensors, key: tensors[key] / 0}, lora / "adapter_model.safetensors")
    assert "is not finite" in refuse(lora)


def test_the_command_that_merges_runs_nothing_that_a_name_holds(tmp_path):
    base, adapter = saved("llama", tmp_path)
    write_lora(base, tmp_path / "lora")
    name = """$(touch x)`touch x`'"); print(1) #"""
    for folder, values in (
        (tmp_path / "lora", {"base_model_name_or_path": name}),
        (adapter, {"objectives": ["$(touch x)", "harmless"]}),
    ):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
        command = find_adapter(folder).merge_command
        assert "$(touch x)" in command
        # What a shell leaves of each word, and what Python reads of a program.
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
        ).stdout.split("\0")
        assert words[:-1] == shlex.split(command) and "$(touch x)" in "".join(words)
        if words[1] == "-c":
            texts = {n.value for n in ast.walk(ast.parse(words[2])) if isinstance(n, ast.Constant)}
            assert texts == {name, "DIR", str(folder)}


def on_top(start, folder):
    """An adapter on a model that is an adapter itself."""
    model, _ = load_pretrained_models(start)
    config = AdapterConfig(lora_dim=2, objectives=("helpful", "harmless"))
    inject_adapter(model, config).save(folder)


@pytest.mark.parametrize("kind", ["panacea", "lora"])
def test_the_base_is_known_again_where_it_is_added_up_with_other_rounding(
    kind, tmp_path, monkeypatch
):
    """As on another machine; another λ, or another adapter in its place, is another base."""
    base, _ = saved("llama", tmp_path)
    first, start = tmp_path / "first", str(tmp_path / "first")
    if kind == "lora":
        write_lora(base, first)
    else:
        adapter = inject_adapter(fresh(base), AdapterConfig(objectives=("helpful", "harmless")))
        for parameter in adapter.parameters():
            parameter.data.normal_(std=0.1)
        adapter.config = replace(adapter.config, base_model=str(base))
        adapter.save(first)
        start = f"{first}@0.3,0.7"
    on_top(start, tmp_path / "second")
    rounded, added = [], Adapted.add_to

    def add_to(self, model, dtype=None):
        added(self, model, dtype)
        for parameter in model.parameters():
            if hasattr(parameter, UPDATE):
                rounded.append(parameter.data.mul_(1 + 2**-7))

    monkeypatch.setattr(Adapted, "add_to", add_to)
    load_adapter(load_pretrained_models(start.replace("0.3,0.7", AT))[0], tmp_path / "second")
    assert rounded
    if kind == "panacea":
        with pytest.raises(AdapterError, match=r"another base model of this shape: .* differs"):
            load_adapter(load_pretrained_models(f"{first}@1,0")[0], tmp_path / "second")
    file = first / "adapter_model.safetensors"
    save_file({k: 2 * v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"another base model of this shape: .* differs"):
        load_adapter(load_pretrained_models(start)[0], tmp_path / "second")
