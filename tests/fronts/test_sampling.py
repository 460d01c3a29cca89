"""The rows of a pass over a grid, and means over what counts of them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from safe_rlhf_panacea.forward import NotFiniteError, SamplingConfig
from safe_rlhf_panacea.fronts.measure import check_counted
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.over_grid import Policy, Sampled, pad_left, sample_over_grid
from safe_rlhf_panacea.preference import preference_grid
from tests.tiny import adapted_llama

GREEDY = SamplingConfig(max_length=12, eos_token_id=31, pad_token_id=0, temperature=0.0)
WARM = SamplingConfig(max_length=7, eos_token_id=31, pad_token_id=0, temperature=0.5)
PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16], [17, 18, 19]]


@pytest.fixture(scope="module")
def adapted():
    return adapted_llama()


@pytest.mark.parametrize("config", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_row_n_b_is_prompt_b_at_preference_n(adapted, config):
    """Its tokens, and log-ratios at the temperature of sampling, one unpadded row at a time."""
    model, adapter = adapted
    grid = preference_grid(2, 0.5)  # size = (3, 2)
    ids, mask = pad_left(PROMPTS, pad=0)
    generator = torch.Generator().manual_seed(3)
    policy = Policy(model, adapter, None, config)
    sequences, attended, ratios = sample_over_grid(policy, ids, mask, grid, generator)
    found = set()
    for n, preference in enumerate(grid):
        for b, prompt in enumerate(PROMPTS):
            row = n * len(PROMPTS) + b
            whole, start = sequences[row, attended[row]], len(prompt)
            assert whole[:start].tolist() == prompt
            tokens, both = whole[start:, None], []
            for context in (adapter.at(preference), adapter.disabled()):
                with context, torch.no_grad():
                    logits = model(whole[None]).logits[0, start - 1 : -1]
                both.append((logits / (config.temperature or 1.0)).log_softmax(-1))
            if config is GREEDY:
                assert torch.equal(tokens[:, 0], both[0].argmax(-1))
            each = (both[0] - both[1]).gather(-1, tokens)
            assert ratios[row].item() == pytest.approx(each.sum().item(), abs=1e-4)
            assert abs(each.sum().item()) > 1e-3
            found.add((b, *tokens[:, 0].tolist()))
    assert len(found) > 2 * len(PROMPTS) or config is WARM  # else λ would make no difference


NAN = math.nan


@pytest.mark.parametrize(
    ("kind", "objectives", "errors"),
    [
        (
            "reward",
            [3.0, 6.0],
            [statistics.stdev([1, 2, 6]) / 3**0.5, statistics.stdev([4, 8]) / 2**0.5],
        ),
        # Margins: a right one, a wrong one and a tie of three; none and a right one of two.
        ("accuracy", [0.5, 0.5], [statistics.pstdev([1, 0, 0.5]) / 3**0.5, 0.5 / 2**0.5]),
    ],
)
def test_units_that_do_not_count_are_left_out(kind, objectives, errors):
    rewards = torch.tensor([[[1.0, 4.0], [2.0, NAN], [6.0, NAN], [NAN, 8.0]]]).double()
    sampled = Sampled([[]], rewards, torch.zeros(1, 4).double())
    pairs = {}
    if kind == "accuracy":
        pairs["margins"] = torch.tensor([[2.0, -1.0, 0.0, -3.0]]).double()
        pairs["labels"] = torch.tensor([[1.0, -1.0], [1, 0], [-1, 0], [0, -1]]).double()
    measured = Measurement(torch.tensor([[0.5, 0.5]]), [], sampled, kind=kind, **pairs)
    (point,) = measured.result(["a", "b"], {}).points
    assert point.objectives == pytest.approx(objectives)
    assert point.standard_errors == pytest.approx(errors)


def test_an_objective_must_count_for_something_at_every_preference():
    rewards = torch.tensor([[[1.0, 4.0], [NAN, 8.0]], [[1.0, NAN], [2.0, NAN]]])
    check_counted(rewards[:1], "response")
    with pytest.raises(NotFiniteError, match="objective 2 of 2 counts for no response"):
        check_counted(rewards, "response")
