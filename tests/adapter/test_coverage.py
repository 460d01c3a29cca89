"""How much of a model an adapter reaches."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.model import coverage
from tests.architectures import tiny_model
from tests.tiny import tiny_llama

EXPERTS = (
    "experts are no linear layers and stay as they are "
    "(model.layers.0.mlp.experts.gate_up_proj and 3 more)."
)


def of(model, name="layers."):
    return coverage(inject_adapter(model, AdapterConfig(lora_dim=2, lora_module_name=name)))


def test_embeddings_and_head_are_no_layers():
    assert of(tiny_llama()).share == 1.0
    assert of(tiny_llama()).note == ""
    found = of(tiny_llama(), "q_proj")  # 32 × 32 of four such and three of 32 × 64
    assert found.share == pytest.approx(1 / 10)
    assert found.note == "The adapter reaches 10 % of the weights of the model's layers."


def test_experts_are_named():
    model = tiny_model("qwen3_moe")
    config = model.config
    width, heads, keys = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    attention = 2 * width * (width // heads) * (heads + keys)
    experts = config.num_experts * 3 * width * config.moe_intermediate_size
    router = config.num_experts * width  # a parameter that is no linear layer either
    found = of(model)
    assert found.share == pytest.approx(attention / (attention + experts + router))
    assert found.note == f"The adapter reaches 33 % of the weights of the model's layers: {EXPERTS}"


@pytest.mark.parametrize("kind", ["falcon", "gpt2"])
def test_linear_layers_of_transformers_own_are_adapted(kind):
    assert of(tiny_model(kind), "h.").share == 1.0


def test_a_router_with_a_forward_pass_of_its_own_gets_no_adapter():
    """It gives more than a product; an adapter's forward pass would replace it."""
    model = tiny_model("llama4_text")
    adapter = inject_adapter(model, AdapterConfig(lora_dim=2, lora_module_name="feed_forward"))
    assert adapter.layers and not any("router" in name for name in adapter.layers)
