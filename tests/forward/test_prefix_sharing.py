"""What sequences begin with goes through once, and every number is that of rows of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter
from safe_rlhf_panacea.base.losses import diverging_mask
from safe_rlhf_panacea.forward import (
    PassOptions,
    across,
    log_probs,
    response_tokens,
    set_pass_options,
    side_by_side,
)
from safe_rlhf_panacea.forward.sharing import can_share
from tests.tiny import tiny_llama

WIDTH = 16
# Common tokens, length of the better sequence, of the worse one.
PAIRS = [(5, 16, 9), (3, 7, 12), (8, 8, 15), (0, 6, 6), (10, 16, 16), (9, 9, 9)]

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_WIDE = {**_SIZES, **_ENDS, "intermediate_size": 48}
_GROUPED = {**_WIDE, "num_key_value_heads": 2}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 40, **_ENDS}
_NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 40, **_ENDS}
_NEO |= {"max_position_embeddings": 20, "resid_dropout": 0, "embed_dropout": 0}
JOINED = {
    "llama": LlamaConfig(**_GROUPED),
    "qwen2": Qwen2Config(**_GROUPED),
    "gemma": GemmaConfig(**_GROUPED, head_dim=8),
    "gpt-neox": GPTNeoXConfig(**_WIDE),
    "gpt2": GPT2Config(**_GPT2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
}
APART = {
    "a window": MistralConfig(**_GROUPED, sliding_window=4),
    "no positions": BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=40, **_ENDS),
    "a buffer of columns": GPTNeoConfig(**_NEO, attention_types=[[["global"], 2]]),
    "a window in a buffer": GPTNeoConfig(
        **_NEO, attention_types=[[["global", "local"], 1]], window_size=6
    ),
    "a window in a part": Gemma3Config(
        text_config={**_GROUPED, "head_dim": 8, "sliding_window": 4},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    ),
}


def batch_of_pairs():
    """Token ids and mask, all better sequences first, and what DPO counts."""
    generator = torch.Generator().manual_seed(3)
    better = torch.randint(3, 40, (len(PAIRS), WIDTH), generator=generator)
    worse = torch.randint(3, 40, better.shape, generator=generator)
    masks = torch.zeros(2, *better.shape, dtype=torch.bool)
    for row, (common, of_better, of_worse) in enumerate(PAIRS):
        worse[row, :common] = better[row, :common]
        if common < WIDTH and worse[row, common] == better[row, common]:
            worse[row, common] = 3 + (better[row, common] - 2) % 37
        masks[0, row, :of_better] = masks[1, row, :of_worse] = True
    better, worse = better.where(masks[0], 0), worse.where(masks[1], 0)
    return better, masks[0], worse, masks[1]


def counted_of(better, better_mask, worse, worse_mask, **options):
    return torch.cat(diverging_mask(better, better_mask, worse, worse_mask, **options))


def pair_log_probs(model, ids, mask, counted):
    return log_probs(model, ids, mask, counted, across(len(ids), 2))


def model_of(config, attention):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).double()
    for parameter in model.parameters():
        parameter.data.mul_(5)  # so that a wrong position is seen
    return model.eval()


def tokens_through(model, run):
    """What ``run`` gives, and how many tokens went through the model for it."""
    seen = []

    def hook(_, inputs, options):
        seen.append(options["input_ids"].numel())

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        return run(), sum(seen)
    finally:
        handle.remove()


@pytest.mark.parametrize("upstream_slice", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", JOINED)
def test_numbers_are_those_of_rows_apart(family, attention, upstream_slice):
    model = model_of(JOINED[family], attention)
    better, better_mask, worse, worse_mask = batch_of_pairs()
    counted = counted_of(*batch_of_pairs(), upstream_slice=upstream_slice)
    inputs = torch.cat([better, worse]), torch.cat([better_mask, worse_mask]), counted
    assert can_share(model, 2 * len(PAIRS))
    apart, of_apart = tokens_through(model, lambda: log_probs(model, *inputs))
    joined, of_joined = tokens_through(model, lambda: pair_log_probs(model, *inputs))
    # transformers' eager attention has its softmax in float32, whatever the model is in.
    torch.testing.assert_close(joined, apart, rtol=0, atol=1e-10 if attention == "sdpa" else 1e-5)
    assert apart.abs().sum() > 10
    assert of_joined < 0.85 * of_apart


def test_whatever_counts_is_given_the_beginning_too():
    model = model_of(JOINED["llama"], "sdpa")
    better, better_mask, worse, worse_mask = batch_of_pairs()
    ids, mask = torch.cat([better, worse]), torch.cat([better_mask, worse_mask])
    counted = mask[:, 1:] & (torch.arange(WIDTH - 1) % 3 > 0)
    counted[: len(PAIRS)] &= torch.arange(WIDTH - 1) % 2 > 0  # other tokens of the better ones
    found = pair_log_probs(model, ids, mask, counted)
    torch.testing.assert_close(found, log_probs(model, ids, mask, counted))


@pytest.mark.parametrize("kind", APART)
def test_models_that_cannot_are_left_as_they_are(kind):
    only_eager = isinstance(APART[kind], (BloomConfig, GPTNeoConfig))
    model = model_of(APART[kind], "eager" if only_eager else "sdpa")
    better, better_mask, worse, worse_mask = batch_of_pairs()
    inputs = torch.cat([better, worse]), torch.cat([better_mask, worse_mask])
    counted = counted_of(*batch_of_pairs())
    assert not can_share(model, 2 * len(PAIRS))
    assert torch.equal(pair_log_probs(model, *inputs, counted), log_probs(model, *inputs, counted))


def with_dropout():
    torch.manual_seed(0)
    config = GPT2Config(**_GPT2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    return AutoModelForCausalLM.from_config(config).train()


def test_the_answer_does_not_depend_on_the_mode_nor_on_random_numbers():
    model, before = with_dropout(), torch.get_rng_state()
    modes = [part.training for part in model.modules()]
    assert can_share(model, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in model.modules()] == modes
    assert can_share(with_dropout().eval(), 4)


def test_running_out_of_memory_is_no_answer(monkeypatch):
    model = model_of(JOINED["llama"], "sdpa")

    def full(**_):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(model, "forward", full)
        can_share(model, 4)
    assert can_share(model, 4)


def test_a_wrong_number_of_preferences_is_no_answer():
    model, adapter = adapted()
    with adapter.at(torch.full((3, 2), 0.5)), pytest.raises(AdapterError):
        can_share(model, 4)
    with adapter.at(torch.full((4, 2), 0.5)):
        assert can_share(model, 4)


def test_a_model_that_does_not_obey_the_mask_is_found_out():
    model = model_of(JOINED["llama"], "sdpa")
    own = model.forward

    def forward(input_ids=None, attention_mask=None, position_ids=None, **options):
        return own(input_ids=input_ids, position_ids=position_ids, **options)

    model.forward = forward
    assert not can_share(model, 2 * len(PAIRS))


def groups_of_responses(prompts=(4, 9, 6), shortest=1, longest=8):
    """Ids, mask and what counts of groups: prompts padded on the left, responses on the right."""
    copies = 4
    generator = torch.Generator().manual_seed(4)
    width = max(prompts)
    rows, masks = [], []
    for prompt in prompts:
        beginning = torch.randint(3, 40, (prompt,), generator=generator)
        for copy in range(copies):
            row, mask = torch.zeros(width + longest).long(), torch.zeros(width + longest).bool()
            length = width + shortest + (3 * copy + prompt) % (longest - shortest + 1)
            row[width - prompt : width] = beginning
            row[width:length] = torch.randint(3, 40, (length - width,), generator=generator)
            mask[width - prompt : length] = True
            rows.append(row)
            masks.append(mask)
    ids, mask = torch.stack(rows), torch.stack(masks)
    return ids, mask, response_tokens(mask, width - 1)


@pytest.mark.parametrize("max_tokens", [40, None])
def test_a_group_s_prompt_goes_through_once(max_tokens):
    model = model_of(JOINED["llama"], "sdpa")
    set_pass_options(model, PassOptions(max_tokens))
    ids, mask, counted = groups_of_responses()
    groups = side_by_side(12, 4)
    assert can_share(model, 12)
    apart, of_apart = tokens_through(model, lambda: log_probs(model, ids, mask, counted))
    found, of_found = tokens_through(model, lambda: log_probs(model, ids, mask, counted, groups))
    torch.testing.assert_close(found, apart, rtol=0, atol=1e-10)
    assert of_found < 0.8 * of_apart
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    shuffled = log_probs(model, ids[order], mask[order], counted[order], order.argsort()[groups])
    torch.testing.assert_close(shuffled, apart[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("prompt", "longest", "parts"), [(30, 4, 1), (50, 60, 2), (3, 160, 4)])
def test_groups_are_parted_where_attention_would_cost_more(prompt, longest, parts):
    model = model_of(JOINED["llama"], "sdpa")
    ids, mask, counted = groups_of_responses((prompt,), longest - 3, longest)
    assert can_share(model, 4)
    rows = []
    handle = model.register_forward_pre_hook(
        lambda _, inputs, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    log_probs(model, ids, mask, counted, side_by_side(4, 4))
    handle.remove()
    assert sum(rows) == parts


def test_no_pass_grows_beyond_its_limit():
    model = model_of(JOINED["llama"], "sdpa")
    ids, mask, counted = groups_of_responses((9,))
    assert can_share(model, 4)
    sizes = {}
    for tokens in (1000, 26, 20, 1):
        set_pass_options(model, PassOptions(tokens))
        seen = sizes[tokens] = []
        handle = model.register_forward_pre_hook(
            lambda _, inputs, options, seen=seen: seen.append(options["input_ids"].numel()),
            with_kwargs=True,
        )
        log_probs(model, ids, mask, counted, side_by_side(4, 4))
        handle.remove()
    assert len(sizes[1000]) == 1 and sizes[1000][0] > 26
    assert max(sizes[26]) <= 26 and sum(sizes[26]) < mask.sum()
    assert max(sizes[20]) <= 20
    assert max(sizes[1]) == mask.sum(dim=1).max()  # a single sequence cannot be cut


def test_gradients_are_the_same_to_the_last_bit_on_two_threads():
    torch.manual_seed(0)
    model = tiny_llama(vocab=40, width=512, layers=1)
    # One group: the token before its four responses has four gradients, two from each thread.
    ids, mask, counted = groups_of_responses((8,), shortest=45, longest=48)
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in range(60):
            model.zero_grad()
            log_probs(model, ids, mask, counted, side_by_side(4, 4)).sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found[1:])


def test_bfloat16_on_a_cpu_gives_the_same_but_for_rounding():
    model = model_of(JOINED["llama"], "sdpa").float()
    for parameter in model.parameters():
        parameter.data.div_(5)
    model.bfloat16()
    ids, mask, counted = groups_of_responses()
    found = log_probs(model, ids, mask, counted, side_by_side(12, 4))
    apart = log_probs(model, ids, mask, counted)
    torch.testing.assert_close(found, apart, rtol=0, atol=0.05)
    assert model.config._attn_implementation == "sdpa"


def test_a_gap_within_a_row_is_left_as_it_is():
    model = model_of(JOINED["llama"], "sdpa")
    ids, mask, counted = groups_of_responses()
    mask[0, 8] = False
    assert can_share(model, 12)
    _, tokens = tokens_through(
        model, lambda: log_probs(model, ids, mask, counted, side_by_side(12, 4))
    )
    assert tokens >= mask.sum()


def test_long_rests_with_little_in_common_are_not_worth_it():
    model = model_of(JOINED["llama"], "sdpa")
    ids = torch.randint(3, 40, (2, 400), generator=torch.Generator().manual_seed(0))
    ids[1, :4] = ids[0, :4]
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert can_share(model, 2)
    _, tokens = tokens_through(model, lambda: pair_log_probs(model, ids, mask, mask[:, 1:]))
    assert tokens == ids.numel()


def adapted(gradient_checkpointing=False):
    torch.manual_seed(0)
    model = tiny_llama(vocab=40).double()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    adapter = inject_adapter(model, AdapterConfig(lora_dim=2, objectives=("a", "b")))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.train(), adapter


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("max_tokens", [24, None])
def test_two_steps_give_the_gradients_of_rows_apart(by_row, max_tokens, checkpointing):
    better, better_mask, worse, worse_mask = batch_of_pairs()
    ids, mask = torch.cat([better, worse]), torch.cat([better_mask, worse_mask])
    counted = counted_of(*batch_of_pairs())
    weights = torch.rand(counted.shape, generator=torch.Generator().manual_seed(1)).double()
    preference = torch.rand(len(PAIRS), 2, generator=torch.Generator().manual_seed(2))
    preference = preference.repeat(2, 1) if by_row else preference[0]
    found = []
    for way in (pair_log_probs, log_probs):
        model, adapter = adapted(checkpointing)
        set_pass_options(model, PassOptions(max_tokens))
        optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            with adapter.at(preference):
                (way(model, ids, mask, counted) * weights).sum().backward()
            optimizer.step()
        found.append([p.grad.clone() for p in adapter.parameters()])
    for joined, apart in zip(*found, strict=True):
        # Singular values are made in float32.
        torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found[0]) > 1e-3


@pytest.mark.parametrize("by_row", [False, True])
def test_two_steps_on_groups_give_the_gradients_of_rows_apart(by_row):
    ids, mask, counted = groups_of_responses()
    weights = torch.rand(counted.shape, generator=torch.Generator().manual_seed(1)).double()
    preference = torch.rand(3, 2, generator=torch.Generator().manual_seed(2))
    preference = preference.repeat_interleave(4, dim=0) if by_row else preference[0]
    found = []
    for groups in (side_by_side(12, 4), side_by_side(12, 1)):
        model, adapter = adapted()
        optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            with adapter.at(preference):
                (log_probs(model, ids, mask, counted, groups) * weights).sum().backward()
            optimizer.step()
        found.append([p.grad.clone() for p in adapter.parameters()])
    for joined, apart in zip(*found, strict=True):
        torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found[0]) > 1e-3


def test_as_many_preferences_as_rows_are_demanded():
    model, adapter = adapted()
    better, better_mask, worse, worse_mask = batch_of_pairs()
    ids, mask = torch.cat([better, worse]), torch.cat([better_mask, worse_mask])
    with adapter.at(torch.full((len(PAIRS), 2), 0.5)), pytest.raises(AdapterError):
        pair_log_probs(model, ids, mask, counted_of(*batch_of_pairs()))


def test_a_reference_does_not_care_whose_preferences_are_set():
    model, adapter = adapted()
    better, better_mask, worse, worse_mask = batch_of_pairs()
    ids, mask = torch.cat([better, worse]), torch.cat([better_mask, worse_mask])
    inputs = ids, mask, counted_of(*batch_of_pairs())
    with torch.no_grad(), adapter.at(torch.full((3, 2), 0.5)), adapter.disabled():
        found = pair_log_probs(model, *inputs)
        torch.testing.assert_close(found, log_probs(model, *inputs))
