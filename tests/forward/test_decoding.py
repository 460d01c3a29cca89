"""Rows that have ended leave the batch: every response stays what it is for a row on its own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from safe_rlhf_panacea.forward import SamplingConfig, decoding, generate, ways
from tests.tiny import adapted_llama, tiny_llama

PROMPTS, WIDTH, LENGTH = 6, 5, 45
STOPS = (2, 9, 17)
CONFIG = SamplingConfig(max_length=LENGTH, eos_token_id=STOPS, pad_token_id=0)
ONE = torch.tensor([0.3, 0.7])


@pytest.fixture(scope="module")
def adapted():
    model, adapter = adapted_llama()
    assert ways.fits(model, ways.by_loop)  # measured here, or the passes of it would be counted
    return model, adapter


def prompts(copies: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 32, (PROMPTS, WIDTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = mask[4, :1] = False  # left padding
    return ids.masked_fill(~mask, 0).repeat(copies, 1), mask.repeat(copies, 1)


def numbers(blocks: int, rows: int) -> torch.Tensor:
    """The random numbers that each step and row is to have, size = (LENGTH, rows)."""
    generator = torch.Generator().manual_seed(7)
    options = {"generator": generator, "dtype": torch.float64}
    steps = [torch.rand(rows // blocks, **options) for _ in range(LENGTH)]
    return torch.stack(steps).repeat(1, blocks)


@torch.no_grad()
def alone(model, prompt: list[int], uniform: list[float], temperature: float) -> list[int]:
    """One response: no batch, no padding, no cache."""
    response: list[int] = []
    while len(response) < LENGTH - WIDTH and not (response and response[-1] in STOPS):
        logits = model(torch.tensor([prompt + response])).logits[0, -1]
        if temperature == 0:
            response.append(int(logits.argmax()))
            continue
        sums = (logits / temperature).softmax(-1).cumsum(-1)
        response.append(int((sums <= uniform[len(response)] * sums[-1]).sum()))
    return response


@pytest.mark.parametrize(
    ("temperature", "per_row", "blocks", "returned", "look_every"),
    [
        (1.0, False, 1, 1, 1),
        (1.5, True, 1, 1, 4),
        (0.0, False, 1, 1, 4),
        (0.0, True, 1, 1, 1),
        (1.0, True, 3, 1, 1),
        (1.0, True, 1, 3, 1),
        (1.0, "by prompt", 1, 3, 1),
        (1.0, False, 2, 2, 4),
    ],
)
def test_each_response_is_that_of_its_row_alone(
    adapted, monkeypatch, temperature, per_row, blocks, returned, look_every
):
    model, adapter = adapted
    monkeypatch.setitem(decoding.LOOK_EVERY, "cpu", look_every)
    ids, mask = prompts(blocks)
    rows = len(ids) * returned
    each = torch.rand(rows, 2, generator=torch.Generator().manual_seed(2))
    if per_row == "by prompt":
        each = each[::returned].repeat_interleave(returned, dim=0)
    config = dataclasses.replace(CONFIG, temperature=temperature, num_return_sequences=returned)
    present: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: present.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with adapter.at(each if per_row else ONE):
        generator = torch.Generator().manual_seed(7)
        sequences, attended = generate(model, ids, mask, config, generator, blocks)
        after = adapter.preference.clone()
    hook.remove()

    assert torch.equal(after, each if per_row else ONE)
    uniform = numbers(blocks, rows)
    lengths = []
    for row in range(rows):
        prompt = ids[row // returned][mask[row // returned]].tolist()
        with adapter.at(each[row] if per_row else ONE):
            response = alone(model, prompt, uniform[:, row].tolist(), temperature)
        lengths.append(len(response))
        padding = sequences.size(1) - WIDTH - len(response)
        assert sequences[row, WIDTH:].tolist() == response + [0] * padding
        assert attended[row, WIDTH:].tolist() == [True] * len(response) + [False] * padding
    assert sequences.size(1) == WIDTH + max(lengths)
    # Responses to one prompt at one λ read it once.
    assert present.pop(0) == (rows if per_row is True else len(ids))
    check_who_was_present([rows, *present], lengths, look_every)


def test_responses_to_a_prompt_keep_its_preference_while_none_has_ended(adapted):
    """Rows that leave would set their λ anew."""
    model, adapter = adapted
    ids, mask = prompts()
    each = torch.rand(PROMPTS, 2, generator=torch.Generator().manual_seed(2))
    never = dataclasses.replace(CONFIG, max_length=WIDTH + 4, eos_token_id=99, temperature=0.0)
    with adapter.at(each.repeat_interleave(2, dim=0)):
        config = dataclasses.replace(never, num_return_sequences=2)
        sequences, _ = generate(model, ids, mask, config)
    with adapter.at(each):
        single, _ = generate(model, ids, mask, never)
    assert torch.equal(sequences, single.repeat_interleave(2, dim=0))


def check_who_was_present(present: list[int], lengths: list[int], look_every: int) -> None:
    """Whoever had to leave at the last look is not there."""
    assert present[-1] < len(lengths)  # else the test shows nothing
    for step in range(look_every, max(lengths)):
        looked = step - step % look_every
        alive = sum(length > looked for length in lengths)
        assert alive <= present[step]
        assert (present[step] - alive) < decoding.LEAVING * present[step]


def test_sliding_windows_keep_the_rows_that_are_left():
    config = MistralConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=4, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(config).double().eval()
    ids, mask = prompts()
    greedy = dataclasses.replace(CONFIG, temperature=0.0)
    sequences, attended = generate(model, ids, mask, greedy)
    expected = model.generate(
        input_ids=ids, attention_mask=mask.long(), max_length=LENGTH, do_sample=False,
        eos_token_id=list(STOPS), pad_token_id=0,
    )  # fmt: skip
    lengths = attended[:, WIDTH:].sum(dim=1)
    assert lengths.min() < lengths.max()  # else none would have left
    assert torch.equal(sequences * attended, expected * attended)


def test_responses_can_be_learnt_from():
    model, (ids, mask) = tiny_llama(vocab=32), prompts()
    sequences, attended = generate(model, ids, mask, CONFIG)
    model(sequences, attention_mask=attended.long()).logits.mean().backward()
    assert model.get_input_embeddings().weight.grad is not None
