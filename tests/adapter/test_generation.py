"""``generate``, copies, compilation and autocast: whatever runs the model, λ follows."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError
from tests.tiny import adapt, tiny_llama

CONFIG = AdapterConfig(lora_dim=3, lora_scaling=12.0)
OPTIONS = {"max_new_tokens": 5, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}


def adapted(dtype=torch.float32, layers=2):
    """A model whose σ and s are large enough for λ to change what it says."""
    model = tiny_llama(layers=layers).to(dtype)
    return model, adapt(model, CONFIG, std=0.02, singular=8.0)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 3, "num_return_sequences": 2, "use_cache": False},
    ],
    ids=["best beam", "all beams", "without cache"],
)
def test_beams_with_a_preference_per_sample(ids, preferences, options):
    model, adapter = adapted()
    adapter.set_preference(preferences)
    together = model.generate(ids, **OPTIONS, **options)
    copies = options.get("num_return_sequences", 1)
    assert together.size(0) == 3 * copies
    alone = []
    for row in range(3):
        adapter.set_preference(preferences[row])
        alone.append(model.generate(ids[row : row + 1], **OPTIONS, **options))
    assert torch.equal(together, torch.cat(alone))


def test_sampling_repeats_the_preference_with_its_row(ids, preferences):
    """With one candidate a sample is the greedy answer, of which each row has its own."""
    model, adapter = adapted()
    adapter.set_preference(preferences)
    rows = ids[:1].repeat(3, 1)  # which differ in λ only
    greedy = model.generate(rows, **OPTIONS)
    assert len({tuple(row.tolist()) for row in greedy}) == 3
    options = {**OPTIONS, "do_sample": True, "num_return_sequences": 3, "top_k": 1}
    assert torch.equal(model.generate(rows, **options), greedy.repeat_interleave(3, dim=0))


def test_after_generate_rows_are_checked_again(ids, preferences):
    model, adapter = adapted()
    adapter.set_preference(preferences)
    model.generate(ids, **{**OPTIONS, "do_sample": True}, num_return_sequences=2)
    for context in (torch.no_grad, torch.enable_grad):
        with context(), pytest.raises(AdapterError, match="the batch has 6 rows"):
            model(ids.repeat(2, 1)[:, :1])


def test_generate_while_off_or_merged(ids, preferences):
    expected = tiny_llama().generate(ids, **OPTIONS)
    model, adapter = adapted()
    adapter.set_preference(preferences[1])
    own = model.generate(ids, **OPTIONS)
    assert not torch.equal(own, expected)
    with adapter.disabled():
        assert torch.equal(model.generate(ids, **OPTIONS), expected)
    with adapter.merged(preferences[1]):
        assert torch.equal(model.generate(ids, num_return_sequences=1, **OPTIONS), own)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_generates_with_its_own_weights_and_preference(ids, preferences, duplicate):
    model, adapter = adapted()
    adapter.set_preference(preferences[0])
    first = model.generate(ids, **OPTIONS)
    adapter.set_preference(preferences[2])
    last = model.generate(ids, **OPTIONS)
    other = duplicate(model)
    other.panacea_adapter.set_preference(preferences[0])
    assert torch.equal(other.generate(ids, **OPTIONS), first)
    assert torch.equal(model.generate(ids, **OPTIONS), last)
    other.panacea_adapter.set_preference(preferences)
    assert other.generate(ids, **OPTIONS, num_beams=2).size(0) == 3
    with other.panacea_adapter.disabled():
        assert torch.equal(other.generate(ids, **OPTIONS), tiny_llama().generate(ids, **OPTIONS))
        assert torch.equal(model.generate(ids, **OPTIONS), last)
    assert other.panacea_adapter.model is other
    assert all(
        layer is other.get_submodule(name) for name, layer in other.panacea_adapter.layers.items()
    )


@pytest.mark.parametrize("gradients", [False, True])
def test_compiled_once_it_follows_every_preference(ids, gradients):
    """More preferences than the compiler's limit of graphs, and one graph for them all."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    expected = tiny_llama(layers=1)(ids).logits
    model, adapter = adapted(layers=1)
    compiled = torch.compile(model, backend=backend)
    generator = torch.Generator().manual_seed(0)
    with torch.set_grad_enabled(gradients):
        for _ in range(10):
            adapter.set_preference(torch.rand(2, generator=generator))
            assert torch.allclose(compiled(ids).logits, model(ids).logits, atol=1e-5)
        assert len(graphs) == 1
        adapter.set_preference(torch.rand(3, 2, generator=generator))
        assert torch.allclose(compiled(ids).logits, model(ids).logits, atol=1e-5)
        with adapter.disabled():
            assert torch.allclose(compiled(ids).logits, expected, atol=1e-5)


def test_bfloat16_with_a_preference_per_sample(ids, preferences):
    model, adapter = adapted(torch.bfloat16)
    adapter.set_preference(preferences)
    together = model(ids).logits
    assert together.dtype == torch.bfloat16
    for row in range(3):
        adapter.set_preference(preferences[row])
        alone = model(ids[row : row + 1]).logits[0]
        scale = alone.abs().max()
        assert (alone - together[row]).abs().max() < 0.05 * scale
    adapter.set_preference(preferences)
    assert model.generate(ids, **OPTIONS, num_beams=2).shape == (3, 11)


def test_autocast(ids, preferences):
    model, adapter = adapted()
    adapter.set_preference(preferences)
    expected = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    logits.float().square().sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())


def test_training_after_inference_mode(ids, preferences):
    """λ set during a rollout under ``inference_mode`` must not spoil the update after it."""
    model, adapter = adapted()
    with torch.inference_mode():
        adapter.set_preference(preferences)
        model(ids)
    model(ids).logits.sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())
