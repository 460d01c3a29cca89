"""Tiny bases with an adapter that does something, saved as a training leaves them."""

from __future__ import annotations

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter, load_adapter
from tests.tiny import tiny_tokenizer

GRID = [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.9, 0.1), (1.0, 0.0)]


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**SIZES | changes))


def qwen2():
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    for layer in model.model.layers:  # biases that matter
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    return model


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    )


WITHOUT = "without a preference"
MODELS = {
    "llama": (llama, {}),
    "per objective": (llama, {"scaling_per_objective": True}),
    "fixed": (llama, {"fixed_scaling": 0.05}),
    "several values": (llama, {"pref_rank": 2, "scaling_per_objective": True}),
    "tied": (lambda: llama(tie_word_embeddings=True), {"lora_module_name": ""}),
    "conv1d": (gpt2, {"lora_module_name": "h."}),
    "qwen2": (qwen2, {}),
    WITHOUT: (llama, {"pref_dim": 0}),
}


def saved(kind, folder, **options):
    """A base model's folder and an adapter's, with σ and s away from 0."""
    torch.manual_seed(0)
    make, config = MODELS[kind]
    base = folder / "base"
    model = make().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(5)  # far from uniform
    model.save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    values = {"lora_dim": 3, "lora_scaling": 24.0, "objectives": ("helpful", "harmless")}
    config = AdapterConfig(**values | {"base_model": str(base)} | config | options)
    adapter = inject_adapter(model, config)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            if name.endswith(("sigma", "lora_s")):
                parameter.copy_(torch.randn_like(parameter))
            elif name.endswith(("lora_U", "lora_V")):
                parameter.mul_(3)
    adapter.save(folder / "adapter")
    return base, folder / "adapter"


def fresh(base):
    """The base model as transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base).eval()


def tokens():
    return torch.randint(4, 54, (2, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def panacea_logits(base, adapter, preference):
    """What this package computes, size = (B, L, V)."""
    model = fresh(base)
    handle = load_adapter(model, adapter)
    if handle.pref_dim:
        handle.set_preference(torch.tensor(preference))
    return model(tokens()).logits


def assert_differs(first, second):
    """The adapter does something: a test that compares two models must not compare two bases."""
    assert (first - second).abs().max() > 0.1
