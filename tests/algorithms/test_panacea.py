"""What every Panacea trainer holds, without a trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.algorithms import panacea as module
from safe_rlhf_panacea.algorithms.ppo import parse_arguments
from tests.tiny import tiny_llama

FLAGS = ["--actor_model_name_or_path", "m", "--reward_models", "a=x", "b=y"]
FLAGS += ["--train_datasets", "prompts:1:p.jsonl", "--output_dir", "out"]
ONE = torch.tensor([[0.25, 0.75]])


def panacea(*flags):
    args = parse_arguments([*FLAGS, *flags])
    return module.Panacea(args, ("a", "b"), "m")


def test_the_processes_share_one_ideal_point(monkeypatch):
    elsewhere = torch.tensor([5.0, 0.0])  # the best that another process has seen
    monkeypatch.setattr(module, "all_reduce_max", lambda best: torch.maximum(best, elsewhere))
    held = panacea("--aggregation", "tche")
    rewards = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    with held.at(ONE.expand(2, -1), shared=True):
        found = held.reward(rewards)
    assert held.ideal_point.value.tolist() == [5.0, 2.0]
    # -max λ (z - r): 0.25·4 and 0.75·0; 0.25·2 and 0.75·1
    assert found.tolist() == pytest.approx([-1.0, -0.75])


def test_the_reference_is_the_base_model_without_dropout():
    base = tiny_llama(vocab=32)
    model = tiny_llama(vocab=32)
    held = panacea()
    held.attach(model, "policy", SimpleNamespace(recorded="none"))
    with torch.no_grad():
        for parameter in held.policy.parameters():
            parameter.fill_(0.1)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    ids = torch.arange(3, 13).view(1, -1)
    with torch.no_grad(), held.reference(model):
        assert torch.equal(model(ids).logits, base(ids).logits)
    assert model.training and held.policy.state.enabled
    assert not torch.equal(model(ids).logits, model(ids).logits)  # else there was no dropout


@pytest.mark.parametrize(("flags", "followed"), [([], True), (["--fp16"], False)])
def test_gradients_times_a_changing_loss_scale_are_not_followed(flags, followed):
    held = panacea(*flags)
    held.attach(tiny_llama(vocab=32), "policy", SimpleNamespace(recorded="none"))
    assert (held.progress is not None) == followed
