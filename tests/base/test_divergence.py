"""What is not finite is refused, and float16's skipped updates are not."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.runs.divergence import (
    MOST_SKIPPED,
    DivergedError,
    DivergenceCheck,
    check_weights,
)

NAN = float("nan")


class Engine(SimpleNamespace):
    """What is read of an engine: its last update, and how many were skipped so far."""

    def was_step_applied(self):
        return self.applied

    def get_global_grad_norm(self):
        return self.norm


def engine(norm=0.5, *, applied=True):
    return Engine(norm=norm, applied=applied, skipped_steps=0)


@pytest.mark.parametrize("name", ["train/loss", "train/ptx_loss", "train/reward_helpful"])
@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_loss_or_reward_that_is_not_finite(name, value):
    with pytest.raises(DivergedError, match=rf"^step 7 \(λ a=1\): {name} is {value}: ") as refusal:
        DivergenceCheck().check(7, {"train/lr": 1.0, name: value}, {"model": engine()}, "λ a=1")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("norm", [NAN, math.inf, torch.tensor(NAN)])
def test_a_gradient_norm_that_is_not_finite(norm):
    engines = {"actor": engine(), "critic": engine(norm)}
    with pytest.raises(DivergedError, match="step 3: the gradient norm of the critic is"):
        DivergenceCheck().check(3, {"train/loss": 1.0}, engines)


def test_what_is_finite_or_no_loss_passes():
    values = {"train/loss": 1e30, "train/lr": NAN, "train/epoch": 1, "train/reward": None}
    watch = DivergenceCheck()
    watch.check(1, values, {"model": engine()})
    watch.check(2, values, {"model": engine(None)})  # the norm is not known
    watch.check(3, values, {"model": engine(NAN, applied=False)})  # of another update
    with pytest.raises(DivergedError, match="step 4"):  # it did look
        watch.check(4, {**values, "train/loss": NAN}, {"model": engine()})


def test_the_loss_scaler_may_skip_an_update_but_not_many_in_a_row():
    watch, one = DivergenceCheck(), engine()

    def step(*, skipped):
        one.applied = not skipped
        one.norm = math.inf if skipped else 0.5
        one.skipped_steps += skipped
        watch.check(1, {"train/loss": 1.0}, {"actor": one})

    step(skipped=False)
    for _ in range(MOST_SKIPPED):
        step(skipped=True)
    step(skipped=False)
    for _ in range(MOST_SKIPPED):
        step(skipped=True)
        one.applied = False  # a micro-batch between two updates neither counts nor forgives
        watch.check(1, {"train/loss": 1.0}, {"actor": one})
    with pytest.raises(DivergedError, match=f"skipped {MOST_SKIPPED + 1} updates of the actor"):
        step(skipped=True)


def test_trained_weights_that_are_not_finite_are_not_saved():
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)[0, 0] = NAN
    check_weights(module.named_parameters(), "step 3")  # a frozen one is another's business
    with torch.no_grad():
        module.bias[1] = math.inf
    with pytest.raises(DivergedError, match=r"^step 3: bias is not finite"):
        check_weights(module.named_parameters(), "step 3")
