"""Rows of one batch against each of them alone."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from transformers import DynamicCache

from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.serving.batch import NOT_FINITE, Batch, SlotCache, check_model
from safe_rlhf_panacea.serving.jobs import Job, Sampling, TextStream
from tests.architectures import tiny_model
from tests.export.models import saved

MAX_LENGTH = 60


def loaded(adapter):
    """The model as a server loads it, in float64."""
    model = PanaceaModel.load(adapter)
    model.model.double()
    return model


@pytest.fixture(scope="module")
def model(adapter):
    return loaded(adapter)


def preferences(count):
    """λ that all differ, size = (count, 2)."""
    first = torch.linspace(0, 1, count)
    return torch.stack([first, 1 - first], dim=1)


def make_job(model, prompt, preference, **sampling):
    return Job(
        prompt=list(prompt),
        preference=preference,
        max_new_tokens=100,
        sampling=Sampling(**{"temperature": 0.0, **sampling}),
        stop_ids=frozenset(),
        text=TextStream(model.tokenizer),
        deliver=lambda piece: None,
    )


def make_batch(model, rows=8):
    return Batch(model.model, model.adapter, 0, rows, MAX_LENGTH)


def prompts(count):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(4, 54, (3 + 5 * i % 17,), generator=generator).tolist() for i in range(count)
    ]


@torch.no_grad()
def greedy(model, prompt, preference, steps):
    """transformers' forward pass over the whole sequence again and again, without a cache."""
    model.adapter.set_preference(preference)
    ids = list(prompt)
    for _ in range(steps):
        logits = model.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def run(batch, arrivals, steps):
    """Let jobs arrive at their step and leave after theirs; returns each one's tokens."""
    found = {}
    for step in range(steps):
        joining = [job for job, (start, _) in arrivals.items() if start == step]
        if joining:
            for job, token in zip(joining, batch.join(joining), strict=True):
                found[job] = [token]
        if batch.jobs:
            for job, token in zip(list(batch.jobs), batch.step(), strict=True):
                found[job].append(token)
        for job in [job for job in batch.jobs if arrivals[job][1] == step]:
            batch.leave(job)
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_rows_that_come_and_go_answer_as_each_alone(model, attention):
    model.model.set_attn_implementation(attention)
    texts, vectors = prompts(7), preferences(7)
    jobs = [make_job(model, text, vector) for text, vector in zip(texts, vectors, strict=True)]
    times = [(0, 12), (0, 5), (0, 20), (4, 9), (4, 20), (10, 20), (15, 18)]
    batch = make_batch(model)
    found = run(batch, dict(zip(jobs, times, strict=True)), 21)
    assert batch.jobs == []
    for job, text, vector in zip(jobs, texts, vectors, strict=True):
        assert found[job] == greedy(model, text, vector, len(found[job]))
    assert [len(found[job]) for job in jobs] == [14, 7, 22, 7, 18, 12, 5]
    assert len({tuple(greedy(model, texts[0], vector, 12)) for vector in vectors[::2]}) == 4
    model.model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("kind", ["conv1d", "qwen2"])
@torch.no_grad()
def test_other_architectures(kind, tmp_path):
    """Learned positions and transposed weights; two query heads to a key head."""
    other = loaded(saved(kind, tmp_path)[1])
    texts, vectors = prompts(3), preferences(3)
    jobs = [make_job(other, text, vector) for text, vector in zip(texts, vectors, strict=True)]
    found = run(make_batch(other), dict(zip(jobs, [(0, 9), (0, 3), (5, 9)], strict=True)), 10)
    for job, text, vector in zip(jobs, texts, vectors, strict=True):
        assert found[job] == greedy(other, text, vector, len(found[job]))


@torch.no_grad()
def test_a_seed_draws_the_same_in_any_company(model):
    text, vector = prompts(2)[1], torch.tensor([0.3, 0.7])
    options = {"temperature": 1.5, "seed": 5}

    def drawn(company, **more):
        job = make_job(model, text, vector, **options, **more)
        others = [
            make_job(model, other, vector, temperature=2.0, top_p=0.5) for other in prompts(company)
        ]
        batch = make_batch(model)
        return run(batch, dict.fromkeys([*others, job], (0, 9)), 10)[job]

    assert drawn(0) == drawn(3) != drawn(0, top_p=0.3)
    assert drawn(0, top_p=0.3) == drawn(4, top_p=0.3)


@contextmanager
def overflowing(model):
    """Inside, activations overflow at λ = (1, 0), and nothing changes at (0, 1)."""
    layer = model.adapter.layers["model.layers.0.self_attn.v_proj"]
    column = model.adapter.config.lora_dim  # of the first objective
    before = layer.lora_U.clone(), layer.lora_V.clone()
    try:
        for factor in (layer.lora_U, layer.lora_V):
            factor.data[:, column] = 1e200
        yield
    finally:
        layer.lora_U.data, layer.lora_V.data = before


@torch.no_grad()
def test_a_row_that_overflows_gets_no_token_and_leaves_nothing_behind(model):
    (short, _, long), (bad, good) = prompts(3), preferences(2).flip(0)
    # The one that comes later is masked where the one before it had tokens, and reads as far.
    lost, first = make_job(model, [7] * 20, bad), make_job(model, long, good)
    later = make_job(model, short, good)
    with overflowing(model):
        batch = make_batch(model)
        told = batch.join([first, lost])
        assert told[1] == NOT_FINITE
        told_again = batch.step()
        assert told_again[1] == NOT_FINITE
        batch.leave(lost)
        found = {first: [told[0], told_again[0]], later: batch.join([later])}
        for _ in range(4):
            for job, token in zip(list(batch.jobs), batch.step(), strict=True):
                found[job].append(token)
        for job in (first, later):
            assert found[job] == greedy(model, job.prompt, good, len(found[job]))


def test_padding_that_overflows_does_not_stay():
    filled = DynamicCache()
    states = torch.ones(2, 1, 4, 3)
    states[0, :, 2:] = torch.nan
    filled.update(states, states.clone(), 0)
    cache = SlotCache(max_rows=2, max_length=8)
    cache.add(filled, [2, 4])
    for buffer in cache.layers[0].buffers:
        assert buffer[:, 0, :, 0].tolist() == [[1, 1] + [0] * 6, [1] * 4 + [0] * 4]


@torch.no_grad()
def test_memory_grows_with_the_rows_and_is_bounded(model):
    batch, sizes = make_batch(model, rows=4), []
    jobs = [make_job(model, [5] * 20, vector) for vector in preferences(4)]
    for joining in (jobs[:1], jobs[1:3], jobs[3:]):
        batch.join(joining)
        batch.step()
        sizes += {buffer.shape[::2] for layer in batch.cache.layers for buffer in layer.buffers}
    for _ in range(MAX_LENGTH - 23):
        batch.step()
    assert sizes == [(1, MAX_LENGTH), (3, MAX_LENGTH), (4, MAX_LENGTH)]
    assert batch.cache.layers[0].buffers[0].shape[::2] == (4, MAX_LENGTH)


def test_models_that_cannot_be_batched_are_refused(model, monkeypatch):
    config = model.model.config
    check_model(model.model, 10**6)
    monkeypatch.setattr(config, "sliding_window", 32, raising=False)
    check_model(model.model, 32)
    with pytest.raises(ValueError, match="attends to 32 tokens"):
        check_model(model.model, 33)
    with pytest.raises(ValueError, match="attends to 8 tokens"):
        check_model(tiny_model("gpt_neo"), 9)
    with pytest.raises(ValueError, match="a MambaForCausalLM cannot be served"):
        check_model(tiny_model("mamba"), 9)
    with pytest.raises(ValueError, match="rows of a batch would change its answers"):
        check_model(tiny_model("openai-gpt"), 9)
    monkeypatch.setattr(config, "layer_types", ["linear_attention"], raising=False)
    with pytest.raises(ValueError, match="cannot be served"):
        check_model(model.model, 8)


@torch.no_grad()
def test_a_row_that_memory_does_not_suffice_for_leaves_the_others(model, monkeypatch):
    texts, vectors = prompts(2), preferences(2)
    one, two = (make_job(model, *pair) for pair in zip(texts, vectors, strict=True))
    batch = make_batch(model)
    found = [*batch.join([one]), *batch.step()]
    grown = []

    def grow(tensor, sizes):
        grown.append(sizes)
        if len(grown) == 2:
            raise torch.OutOfMemoryError
        return torch.nn.functional.pad(tensor, sizes)

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr("safe_rlhf_panacea.serving.batch.pad", grow)
        batch.join([two])
    for _ in range(5):
        found += batch.step()
    assert found == greedy(model, texts[0], vectors[0], 7)
