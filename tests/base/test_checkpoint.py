"""All but weights that an exact resume needs, and the checksums of the files of a checkpoint."""

from __future__ import annotations

import hashlib
import os
import random
from pickle import UnpicklingError

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs import checkpoint
from safe_rlhf_panacea.runs.checkpoint import (
    SAFE,
    UNSAFE,
    TrainingClock,
    TrainingState,
    capture_random_state,
    check_checksums,
    checksum_file,
    restore_random_state,
    tensors_only,
    write_checksums,
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


@pytest.fixture
def checkpoints(tmp_path):
    for name in ("actor", "critic"):
        folder = tmp_path / name / "step-4"
        folder.mkdir(parents=True)
        (folder / "states.pt").write_bytes(bytes(range(256)) * 9000)
        (tmp_path / name / "step-2").mkdir()
        (tmp_path / name / "step-2" / "states.pt").write_bytes(b"other")
    write_checksums(tmp_path, 4, ("actor", "critic"))
    return tmp_path


def test_checksums_are_in_the_format_of_sha256sum(checkpoints):
    digest = hashlib.sha256(bytes(range(256)) * 9000).hexdigest()
    expected = "".join(f"{digest}  {name}/step-4/states.pt\n" for name in ("actor", "critic"))
    assert checksum_file(checkpoints, 4).read_text() == expected
    check_checksums(checkpoints, 4)
    check_checksums(checkpoints, 2)  # an older one has none


def test_a_flipped_byte_a_missing_file_and_a_damaged_list(checkpoints):
    path = checkpoints / "critic" / "step-4" / "states.pt"
    content = bytearray(path.read_bytes())
    content[1_234_567] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"step-4 cannot be loaded: critic.*states\.pt is dam"):
        check_checksums(checkpoints, 4)
    (checkpoints / "actor" / "step-4" / "states.pt").unlink()
    with pytest.raises(UserError, match=r"actor/step-4/states\.pt is missing"):
        check_checksums(checkpoints, 4)
    checksum_file(checkpoints, 4).write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="its list of checksums is damaged"):
        check_checksums(checkpoints, 4)


class Code:
    """A pickle that runs something when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("environment", [{}, {UNSAFE: "1"}, {SAFE: "0"}])
def test_what_a_checkpoint_holds_is_not_run(tmp_path, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = [os.environ.get(name) for name in (SAFE, UNSAFE)]
    file, made = tmp_path / "states.pt", tmp_path / "made"
    torch.save({"module": torch.ones(2), "extra": Code(made)}, file)
    with tensors_only(), pytest.raises(UnpicklingError):
        torch.load(file, weights_only=False)  # as DeepSpeed asks
    assert not made.exists()
    assert [os.environ.get(name) for name in (SAFE, UNSAFE)] == before


def test_what_deepspeed_keeps_under_zero_is_read(tmp_path):
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    options = {"scale_window": 9, "min_scale": 1, "delayed_shift": 2}
    scaler = DynamicLossScaler(8.0, consecutive_hysteresis=False, dtype=torch.half, **options)
    states = {
        "scaler": scaler,
        "at": fragment_address(numel=4, start=3),
        "stage": ZeroStageEnum.gradients,
    }
    torch.save(states, tmp_path / "states.pt")
    with tensors_only():
        found = torch.load(tmp_path / "states.pt", weights_only=False)
    assert found["scaler"].cur_scale == 8.0
    assert found["at"] == fragment_address(numel=4, start=3)
    assert found["stage"] is ZeroStageEnum.gradients


def test_stops_for_evaluations_and_goes_on_after_a_resume(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    clock = TrainingClock()
    now[0] = 107.0  # loading
    clock.start()
    now[0] = 110.0
    with clock.stopped():
        now[0] = 150.0
        assert clock.seconds == 3.0
    now[0] = 152.0
    assert clock.seconds == 5.0
    clock.before = 1000.0
    assert clock.seconds == 1005.0
