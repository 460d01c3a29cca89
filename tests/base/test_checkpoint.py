"""What an exact resume needs survives a file, and random streams go on where they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs import checkpoint
from safe_rlhf_panacea.runs.checkpoint import (
    TrainingState,
    capture_random_state,
    restore_random_state,
)


def draw():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.random(3).tolist(),
        np.random.normal(),
        torch.rand(3).tolist(),
    )


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(3)
    return TrainingState(
        global_step=7,
        epoch=2,
        random_state=capture_random_state(),
        sampler={"epoch": 2, "position": 12, "order": [3, 1]},
        panacea={
            "source": {"generator": generator.get_state()},
            "ideal_point": {"value": torch.tensor([0.5, -float("inf")])},
        },
    )


def through_a_file(value, tmp_path):
    torch.save(value, tmp_path / "state.pt")
    return torch.load(tmp_path / "state.pt", weights_only=True)


def test_the_state_survives_a_file_without_pickled_objects(state, tmp_path):
    client_state = {**state.to_client_state(), "ds_version": "x"}
    loaded = TrainingState.from_client_state(through_a_file(client_state, tmp_path))
    assert (loaded.global_step, loaded.epoch) == (7, 2)
    assert loaded.sampler == state.sampler
    ideal = loaded.panacea["ideal_point"]["value"]
    assert torch.equal(ideal, state.panacea["ideal_point"]["value"])
    saved = torch.Generator()
    saved.set_state(loaded.panacea["source"]["generator"])
    expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(4, generator=saved), expected)


def test_random_streams_go_on(tmp_path):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    draw()  # leaves half a pair of normal numbers behind in Python and NumPy
    saved = through_a_file(capture_random_state(), tmp_path)
    expected = [draw(), draw()]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(6)
    assert draw() != expected[0]
    restore_random_state(saved)
    assert [draw(), draw()] == expected


def test_another_number_of_processes_is_refused(monkeypatch):
    saved = capture_random_state()
    monkeypatch.setattr(checkpoint, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="written by 1 processes and is read by 2"):
        restore_random_state(saved)


def test_foreign_checkpoints_are_refused(state):
    with pytest.raises(UserError, match="holds no training_state"):
        TrainingState.from_client_state({"step": 3})
    client_state = state.to_client_state()
    del client_state["training_state"]["epoch"]
    with pytest.raises(UserError, match="of another version: epoch"):
        TrainingState.from_client_state(client_state)
