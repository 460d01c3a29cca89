"""Which attention a pass takes, and that it gives the same."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.forward import PassOptions, log_probs, set_pass_options
from safe_rlhf_panacea.forward.passes import LONGEST_WRITTEN_OUT, Pass, fastest_attention
from tests.tiny import tiny_llama


def taken(model, length=16):
    with fastest_attention(model, length):
        return model.config._attn_implementation


def test_only_short_passes_in_bfloat16_are_written_out():
    model = tiny_llama(vocab=20)
    assert taken(model) == "sdpa"
    model.bfloat16()
    assert taken(model) == "eager"
    assert taken(model, LONGEST_WRITTEN_OUT) == "eager"
    assert taken(model, LONGEST_WRITTEN_OUT + 1) == "sdpa"
    model.gradient_checkpointing_enable()
    assert taken(model) == "sdpa"


def test_another_implementation_than_the_default_was_somebody_s_choice():
    model = tiny_llama(vocab=20).bfloat16()
    model.set_attn_implementation("flex_attention")
    assert taken(model) == "flex_attention"


def test_what_was_there_is_there_again_after_an_error():
    model = tiny_llama(vocab=20).bfloat16()
    with pytest.raises(KeyError), fastest_attention(model, 16):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def test_it_can_be_turned_off():
    model = tiny_llama(vocab=20).bfloat16()
    part = Pass(torch.arange(2), torch.arange(8).expand(2, 8), 2)
    for wanted, taken_there in ((True, "eager"), (False, "sdpa")):
        set_pass_options(model, PassOptions(write_out_attention=wanted))
        with part.context(model):
            assert model.config._attn_implementation == taken_there


def test_both_give_the_same_numbers(monkeypatch):
    torch.manual_seed(0)
    model = tiny_llama(vocab=20).bfloat16().eval()
    ids = torch.randint(4, 20, (3, 12))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 8:] = False
    written_out = log_probs(model, ids, mask, mask[:, 1:])
    name = "safe_rlhf_panacea.forward.passes.LONGEST_WRITTEN_OUT"
    monkeypatch.setattr(name, 0)
    fused = log_probs(model, ids, mask, mask[:, 1:])
    assert not torch.equal(written_out, fused)  # they are two ways
    torch.testing.assert_close(written_out, fused, rtol=0, atol=0.02)
