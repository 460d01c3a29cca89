"""Every step of short trainings: against recorded numbers, and against other ways to train.

Twenty steps and not one, because σ and s start at 0: the first step moves nothing else, and λ, U
and V have no effect before it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.algorithms.dpo.trainer import rows_of_pairs
from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device
from tests.regression.tiny_world import build_tiny_world
from tests.regression.training import (
    BATCH,
    STEPS,
    common_flags,
    flags_of,
    make_trainer,
    train,
    train_in_processes,
)
from tests.warm_python import warm_python

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the recorded steps are of a CPU: hide the GPU"
)
# Of the largest number of a series. Float32 sums differ with the order in which a processor adds:
# by at most 3e-6 of it (one and two threads, three instruction sets), while a constant that is
# wrong by one per cent moves the gradient norms by 8e-3 and more.
RELATIVE = 1e-4
# λ is one float32 away from a double; tokens are whole numbers. Rounding moves a sampled token to
# its neighbour about once in a hundred runs, and what follows is then another run.
ABSOLUTE = {"λ": 1e-7, "tokens": 0.0}
PER_SAMPLE = ("--preference_scope", "sample")
RECORDED = {
    "dpo": (),
    "dpo-per-sample": (*PER_SAMPLE, "--aggregation", "tche"),
    "ppo": (),
    "ppo-per-sample": (
        *(*PER_SAMPLE, "--aggregation", "tche", "--update_iters", "2", "--whiten_advantages"),
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_tiny_world(tmp_path_factory.mktemp("world"))


def assert_same_series(measured, expected):
    assert set(measured) == set(expected)
    for name, numbers in expected.items():
        atol = ABSOLUTE.get(name.split("_")[0], RELATIVE * max(map(abs, numbers)))
        np.testing.assert_allclose(measured[name], numbers, rtol=0, atol=atol, err_msg=name)


# The tokens that PPO samples are those of the kind of processor that recorded them.
@pytest.mark.parametrize(
    "name",
    [
        name if "dpo" in name else pytest.param(name, marks=pytest.mark.recorded)
        for name in RECORDED
    ],
)
def test_the_steps_are_as_recorded(name, world, reference, tmp_path):
    algorithm, extra = name[:3], [*RECORDED[name]]
    series = train(algorithm, flags_of(algorithm, world, tmp_path / "run", extra)).series
    flags = [*common_flags(algorithm), *extra]
    values = reference(f"trajectory/{name}.json", lambda: {"flags": flags, "series": series})
    assert values["flags"] == flags, "recorded with other flags: record anew"
    assert_same_series(series, values["series"])


# Two ways to train that must come to the same: flags, then whether λ is dealt row by row, then the
# number of processes. What is drawn anew for every batch differs by design between ways that cut
# their batches differently. So there PPO is greedy, its prompts are of one length, every pair has
# both labels, and λ is shared by a batch or dealt row by row.
WHOLE = ("--per_device_train_batch_size", str(2 * BATCH))
MICRO = ("--gradient_accumulation_steps", "2", "--max_steps", str(2 * STEPS))
ZERO_2 = ("--zero_stage", "2")
PROMPTS = ("--per_device_prompt_batch_size", str(2 * BATCH))
GREEDY = ("--temperature", "0")
RECOMPUTE = ("--actor_gradient_checkpointing", "--critic_gradient_checkpointing")
PPO = (*WHOLE, *PROMPTS)
WAYS = {
    "dpo": (WHOLE,),
    "dpo, λ dealt": ((*WHOLE, *PER_SAMPLE), True),
    "dpo, λ dealt, accumulation": ((*PER_SAMPLE, *MICRO), True),
    "dpo, checkpointing": ((*WHOLE, "--gradient_checkpointing"),),
    "dpo, two processes": ((), False, 2),
    "dpo, ZeRO 2": ((*WHOLE, *ZERO_2),),
    "dpo, ZeRO 2, two processes": (ZERO_2, False, 2),
    "ppo": (PPO,),
    "ppo, checkpointing": ((*PPO, *RECOMPUTE),),
    "ppo, ZeRO 2": ((*PPO, *ZERO_2),),
    "ppo, greedy": ((*PPO, *GREEDY),),
    "ppo, greedy, λ dealt": ((*PPO, *GREEDY, *PER_SAMPLE), True),
    "ppo, greedy, λ dealt, accumulation": ((*PROMPTS, *GREEDY, *PER_SAMPLE, *MICRO), True),
    "ppo, greedy, two processes": (GREEDY, False, 2),
    "ppo, greedy, ZeRO 2, two processes": ((*GREEDY, *ZERO_2), False, 2),
}
PAIRS = [
    ("dpo, λ dealt", "dpo, λ dealt, accumulation"),
    ("dpo", "dpo, checkpointing"),
    ("dpo", "dpo, ZeRO 2, two processes"),
]
SLOW_PAIRS = [
    ("dpo", "dpo, two processes"),
    ("dpo", "dpo, ZeRO 2"),
    ("ppo", "ppo, checkpointing"),
    ("ppo", "ppo, ZeRO 2"),
    ("ppo, greedy, λ dealt", "ppo, greedy, λ dealt, accumulation"),
    ("ppo, greedy", "ppo, greedy, two processes"),
    ("ppo, greedy", "ppo, greedy, ZeRO 2, two processes"),
]
# Of the trained adapter's norm. Adam divides by the root of small second moments, and so enlarges
# the rounding of small gradients. Measured: 1e-5 at most.
RELATIVE_ADAPTER = 1e-3


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Trains a way by its name; one that several pairs need is trained once."""
    folder, done = tmp_path_factory.mktemp("ways"), {}

    def run(name, extra, dealt=False, processes=1):
        algorithm, output = name[:3], folder / str(len(done))
        flags = flags_of(algorithm, world, output, [*extra], even=True)
        if processes > 1:
            return train_in_processes(algorithm, flags, processes, output, warm_python())
        return train(algorithm, flags, dealt=dealt)

    def get(name):
        if name not in done:
            done[name] = run(name, *WAYS[name])
        return done[name]

    return get


def adapters_apart(one, other):
    """‖one - other‖ / ‖one‖ of two trained adapters, all their tensors as one vector.

    Not of single entries: where a gradient is nearly nothing, all of it may be rounding.
    """
    first, second = (load_file(run.folder / "adapter_model.safetensors") for run in (one, other))
    apart = sum((first[key] - second[key]).double().square().sum().item() for key in first)
    whole = sum(tensor.double().square().sum().item() for tensor in first.values())
    return (apart / whole) ** 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(pytest.param(*pair, marks=pytest.mark.multiprocess) for pair in PAIRS),
        *(pytest.param(*pair, marks=pytest.mark.recorded) for pair in SLOW_PAIRS),
    ],
)
def test_two_ways_come_to_the_same(one, other, trained):
    one, other = trained(one), trained(other)
    not_compared = ("tokens", "lr", "actor_lr", "reward_critic_lr")  # which differ with the batches
    for name in one.series.keys() - {*not_compared}:
        numbers = np.array(one.series[name])
        by_update = np.array(other.series[name]).reshape(len(numbers), -1).mean(axis=1)
        atol = RELATIVE * np.abs(numbers).max()
        np.testing.assert_allclose(by_update, numbers, rtol=0, atol=atol, err_msg=name)
    assert adapters_apart(one, other) < RELATIVE_ADAPTER


@pytest.mark.parametrize("zero_stage", ["0", "2"])
def test_the_norm_is_that_of_the_unclipped_gradient(zero_stage, world, tmp_path):
    """A loss so large that clipping at 1 bites; the gradient of every batch by autograd."""
    extra = ["--scale_coeff", "3", "--max_steps", "1", "--zero_stage", zero_stage]
    trainer = make_trainer("dpo", flags_of("dpo", world, tmp_path / "by-hand", extra))
    batch = to_device(next(iter(trainer.train_dataloader)), own_device())
    preference = trainer.panacea.source.draw(8)
    trainer.model = trainer.model.module  # the engine wants its own backward pass
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    with trainer.panacea.at(preference, rows_of_pairs(preference)):
        gradients = torch.autograd.grad(trainer.loss(**batch)["loss"], parameters)
    expected = sum(g.double().square().sum().item() for g in gradients) ** 0.5
    series = train("dpo", flags_of("dpo", world, tmp_path / "traced", extra)).series
    assert expected > 2
    assert series["gradient norm of the model"] == [pytest.approx(expected, rel=1e-5)]
    assert series["λ_helpful"] == [pytest.approx(preference[0, 0].item(), abs=1e-9)]
