"""What sequences begin with goes through once, and every number is that of rows of their own."""

from __future__ import annotations

import pytest
import torch
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

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError
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
from tests.tiny import adapt, tiny_llama

WIDTH = 16
# Common tokens, length of the better sequence, of the worse one.
PAIRS = [(5, 16, 9), (3, 7, 12), (8, 8, 15), (0, 6, 6), (10, 16, 16), (9, 9, 9)]
ROWS = 2 * len(PAIRS)

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_WIDE = {**_SIZES, **_ENDS, "intermediate_size": 48}
_GROUPED = {**_WIDE, "num_key_value_heads": 2}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 40, **_ENDS}
_NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 40, **_ENDS}
_NEO |= {"max_position_embeddings": 20, "resid_dropout": 0, "embed_dropout": 0}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 28}
_VISION |= {"num_attention_heads": 2, "patch_size": 14}
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
        vision_config=_VISION,
        mm_tokens_per_image=4,
    ),
    "a switch": LlamaConfig(**_GROUPED),
}


def pairs(counted="from the difference"):
    """Ids and mask of all better sequences, then all worse ones, what counts, and the groups."""
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
    ids, mask = torch.cat([better, worse]), masks.flatten(0, 1)
    upstream = counted == "upstream's slice"
    chosen = diverging_mask(better, masks[0], worse, masks[1], upstream_slice=upstream)
    wanted = torch.cat(chosen)
    if counted == "others in each":
        wanted = mask[:, 1:] & (torch.arange(WIDTH - 1) % 3 > 0)
        wanted[: len(PAIRS)] &= torch.arange(WIDTH - 1) % 2 > 0
    return ids, mask, wanted, across(ROWS, 2)


def responses(prompts=(4, 9, 6), shortest=1, longest=8):
    """As ``pairs``: four responses to each prompt, which is padded on the left."""
    generator = torch.Generator().manual_seed(4)
    width = max(prompts)
    ids = torch.zeros(4 * len(prompts), width + longest, dtype=torch.long)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for number, prompt in enumerate(prompts):
        beginning = torch.randint(3, 40, (prompt,), generator=generator)
        for copy in range(4):
            row = 4 * number + copy
            length = shortest + (3 * copy + prompt) % (longest - shortest + 1)
            response = torch.randint(3, 40, (length,), generator=generator)
            ids[row, width - prompt : width + length] = torch.cat([beginning, response])
            mask[row, width - prompt : width + length] = True
    return ids, mask, response_tokens(mask, width - 1), side_by_side(len(ids), 4)


def model_of(config, attention="sdpa"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).double()
    for parameter in model.parameters():
        parameter.data.mul_(5)  # so that a wrong position is seen
    return model.eval()


def passes_through(model, *inputs):
    """Log-probabilities, and the sizes of the passes for them."""
    can_share(model, len(inputs[0]))  # which is measured once, in passes of its own
    sizes = []
    handle = model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    found = log_probs(model, *inputs)
    handle.remove()
    return found, sizes


def tokens(sizes):
    return sum(rows * length for rows, length in sizes)


@pytest.mark.parametrize("counted", ["from the difference", "upstream's slice", "others in each"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", JOINED)
def test_numbers_are_those_of_rows_apart(family, attention, counted):
    model, (*inputs, groups) = model_of(JOINED[family], attention), pairs(counted)
    assert can_share(model, ROWS)
    apart, of_apart = passes_through(model, *inputs)
    joined, of_joined = passes_through(model, *inputs, groups)
    # transformers' eager attention has its softmax in float32, whatever the model is in.
    torch.testing.assert_close(joined, apart, rtol=0, atol=1e-10 if attention == "sdpa" else 1e-5)
    assert apart.abs().sum() > 10
    assert tokens(of_joined) < 0.85 * tokens(of_apart)


@pytest.mark.parametrize("kind", APART)
def test_models_that_cannot_are_left_as_they_are(kind):
    only_eager = isinstance(APART[kind], (BloomConfig, GPTNeoConfig))
    model, (*inputs, groups) = model_of(APART[kind], "eager" if only_eager else "sdpa"), pairs()
    if kind == "a switch":
        set_pass_options(model, PassOptions(share_prefixes=False))
    assert not can_share(model, ROWS)
    assert torch.equal(log_probs(model, *inputs, groups), log_probs(model, *inputs))


def test_the_answer_does_not_depend_on_the_mode_nor_on_random_numbers():
    config = GPT2Config(**_GPT2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model, before = model_of(config).train(), torch.get_rng_state()
    modes = [part.training for part in model.modules()]
    assert can_share(model, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in model.modules()] == modes
    assert can_share(model_of(config), 4)


def test_running_out_of_memory_is_no_answer_and_disobeying_the_mask_is(monkeypatch):
    model = model_of(JOINED["llama"])

    def full(**_):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(model, "forward", full)
        can_share(model, 4)
    assert can_share(model, 4)
    model = model_of(JOINED["llama"])
    own = model.forward

    def forward(input_ids=None, attention_mask=None, position_ids=None, **options):
        return own(input_ids=input_ids, position_ids=position_ids, **options)

    model.forward = forward
    assert not can_share(model, ROWS)


@pytest.mark.parametrize("max_tokens", [40, None])
def test_a_group_s_prompt_goes_through_once(max_tokens):
    model, (*inputs, groups) = model_of(JOINED["llama"]), responses()
    set_pass_options(model, PassOptions(max_tokens))
    apart, of_apart = passes_through(model, *inputs)
    found, of_found = passes_through(model, *inputs, groups)
    torch.testing.assert_close(found, apart, rtol=0, atol=1e-10)
    assert tokens(of_found) < 0.8 * tokens(of_apart)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    shuffled = log_probs(model, *(values[order] for values in inputs), order.argsort()[groups])
    torch.testing.assert_close(shuffled, apart[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("prompt", "longest", "parts"), [(30, 4, 1), (50, 60, 2), (3, 160, 4)])
def test_groups_are_parted_where_attention_would_cost_more(prompt, longest, parts):
    _, sizes = passes_through(
        model_of(JOINED["llama"]), *responses((prompt,), longest - 3, longest)
    )
    assert sum(rows for rows, _ in sizes) == parts


def test_no_pass_grows_beyond_its_limit():
    model, inputs = model_of(JOINED["llama"]), responses((9,))
    lengths, sizes = inputs[1].sum(dim=1), {}
    for most in (1000, 26, 20, 1):
        set_pass_options(model, PassOptions(most))
        sizes[most] = [rows * length for rows, length in passes_through(model, *inputs)[1]]
    assert len(sizes[1000]) == 1 and sizes[1000][0] > 26
    assert max(sizes[26]) <= 26 and sum(sizes[26]) < lengths.sum()
    assert max(sizes[20]) <= 20
    assert max(sizes[1]) == lengths.max()  # a single sequence cannot be cut


def test_gradients_are_the_same_to_the_last_bit_on_two_threads():
    model = tiny_llama(vocab=40, width=512, layers=1)
    # One group: the token before its four responses has four gradients, two from each thread.
    inputs, threads, found = responses((8,), shortest=20, longest=24), torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in range(4):
            model.zero_grad()
            log_probs(model, *inputs).sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found[1:])


def test_what_cannot_be_joined_or_is_not_worth_it_goes_through_as_it_is():
    model, (ids, mask, counted, groups) = model_of(JOINED["llama"]), responses()
    mask[0, 8] = False  # a gap within a row
    assert tokens(passes_through(model, ids, mask, counted, groups)[1]) >= mask.sum()
    ids = torch.randint(3, 40, (2, 400), generator=torch.Generator().manual_seed(0))
    ids[1, :4] = ids[0, :4]  # little in common, and long rests
    mask = torch.ones_like(ids, dtype=torch.bool)
    _, sizes = passes_through(model, ids, mask, mask[:, 1:], across(2, 2))
    assert tokens(sizes) == ids.numel()


def adapted(gradient_checkpointing=False):
    model = tiny_llama(vocab=40).double()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model.train(), adapt(model, AdapterConfig(lora_dim=2), std=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("max_tokens", [24, None])
@pytest.mark.parametrize("batch", [pairs, responses])
def test_two_steps_give_the_gradients_of_rows_apart(batch, max_tokens, by_row, checkpointing):
    *inputs, groups = batch()
    counted, generator = inputs[-1], torch.Generator().manual_seed(1)
    weights = torch.rand(counted.shape, generator=generator).double()
    each = torch.rand(len(groups), 2, generator=generator)
    preference = torch.empty(len(counted), 2)
    preference[groups.t()] = each  # each group has one λ
    found = []
    for known in ((groups,), ()):
        model, adapter = adapted(checkpointing)
        set_pass_options(model, PassOptions(max_tokens))
        optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            with adapter.at(preference if by_row else each[0]):
                (log_probs(model, *inputs, *known) * weights).sum().backward()
            optimizer.step()
        found.append([p.grad.clone() for p in adapter.parameters()])
    for joined, apart in zip(*found, strict=True):
        # Singular values are made in float32.
        torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found[0]) > 1e-3


def test_as_many_preferences_as_rows_are_demanded_where_they_count():
    (model, adapter), (*inputs, groups) = adapted(), pairs()
    with adapter.at(torch.full((3, 2), 0.5)):
        with pytest.raises(AdapterError):
            log_probs(model, *inputs, groups)
        with torch.no_grad(), adapter.disabled():  # a reference does not care whose are set
            found = log_probs(model, *inputs, groups)
            torch.testing.assert_close(found, log_probs(model, *inputs))
    with adapter.at(torch.full((ROWS, 2), 0.5)):
        assert can_share(model, ROWS)
