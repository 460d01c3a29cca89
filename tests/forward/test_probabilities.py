"""Log-probabilities from a head whose logits are not kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.forward import probabilities
from safe_rlhf_panacea.forward.probabilities import ChosenLogProbs, chosen_log_probs


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(probabilities, "BLOCK_ELEMENTS", 3 * 11)  # three rows at a time


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("with_bias", "temperature"), [(False, 1.0), (True, 1.0), (True, 0.6)])
def test_two_steps_equal_those_through_the_logits(small_blocks, with_bias, temperature):
    weight, bias = numbers(11, 4), numbers(11, seed=1) if with_bias else None
    tokens, factors = torch.tensor([3, 10, 0, 7, 7, 2, 5]), numbers(7, seed=2)
    ours = numbers(7, 4, seed=3).requires_grad_()
    plain = ours.detach().clone().requires_grad_()
    for _ in range(2):
        found = ChosenLogProbs.apply(ours, weight, bias, tokens, temperature)
        logits = plain @ weight.t() + (0 if bias is None else bias)
        expected = (logits / temperature).log_softmax(dim=-1)[torch.arange(7), tokens]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for x, values in ((ours, found), (plain, expected)):
            (slope,) = torch.autograd.grad((values * factors).sum(), x)
            x.data -= 0.5 * slope
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_nothing_as_large_as_the_logits_is_kept():
    hidden, weight = numbers(50, 4).requires_grad_(), numbers(1000, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        ChosenLogProbs.apply(hidden, weight, None, torch.zeros(50, dtype=torch.long), 1.0)
    assert kept == [50 * 4]


class Language(nn.Module):
    """A language model of one table, with something behind its head."""

    def __init__(self, behind, trained=False):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, 11)
        self.head.requires_grad_(trained)
        self.behind, self.widths = behind, []

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache):
        logits = self.head(self.table(input_ids))
        self.widths.append(logits.shape[-2:])
        return SimpleNamespace(logits=self.behind(logits))


BEHIND = {
    "nothing": lambda x: x,
    "a cap": lambda x: 2 * torch.tanh(x / 2),
    "a scale": lambda x: x / 3,
    "a head of its own": lambda x: x.flip(-1),
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("behind", BEHIND)
def test_what_a_model_does_to_its_logits_counts(behind, trained):
    torch.manual_seed(0)
    model = Language(BEHIND[behind], trained).double()
    ids = torch.randint(11, (3, 6))
    where = torch.rand(3, 6) > 0.5
    tokens = torch.randint(11, (int(where.sum()),))
    for _ in range(2):  # the second time it is known
        found = chosen_log_probs(model, {"input_ids": ids}, where, tokens, temperature=0.6)
        logits = BEHIND[behind](model.head(model.table(ids)))[where] / 0.6
        expected = logits.log_softmax(dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
        torch.testing.assert_close(found, expected)
    count = len(tokens)
    # The first time two tokens' to see what the model does with them; never the whole batch's.
    each = (count, 1) if behind == "nothing" and not trained else (count, 11)
    assert model.widths == [*([] if trained else [(2, 11)]), each, each]
    assert "forward" not in vars(model.head)


def test_a_forward_of_the_heads_own_is_there_again():
    model = Language(BEHIND["nothing"]).double()
    class_forward = model.head.forward
    model.head.forward = own = lambda hidden: 2 * class_forward(hidden)  # as accelerate's hooks
    ids, where = torch.tensor([[4, 5]]), torch.tensor([[True, False]])
    expected = model(ids, False).logits[0, 0].log_softmax(-1)[[7]]
    found = chosen_log_probs(model, {"input_ids": ids}, where, torch.tensor([7]))
    torch.testing.assert_close(found, expected)
    assert model.head.forward is own


@pytest.mark.parametrize("behind", ["nothing", "a cap"])
def test_no_token_at_all_is_no_reason_to_take_a_model_for_another(behind):
    model = Language(BEHIND[behind])
    ids, none = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.bool)
    empty = torch.zeros(0, dtype=torch.long)
    assert chosen_log_probs(model, {"input_ids": ids}, none, empty).shape == (0,)
    where = torch.tensor([[True, False]])
    found = chosen_log_probs(model, {"input_ids": ids}, where, torch.tensor([4]))
    logits = BEHIND[behind](model.head(model.table(ids)))[where]
    torch.testing.assert_close(found, logits.log_softmax(dim=-1)[:, 4])
