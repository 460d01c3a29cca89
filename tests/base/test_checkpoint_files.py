"""A checkpoint's files are whole, and reading them runs nothing."""

from __future__ import annotations

import hashlib
import os
from pickle import UnpicklingError

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.runs.checkpoint import (
    SAFE,
    UNSAFE,
    check_checksums,
    checksum_file,
    tensors_only,
    write_checksums,
)


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


def test_a_flipped_byte(checkpoints):
    path = checkpoints / "critic" / "step-4" / "states.pt"
    content = bytearray(path.read_bytes())
    content[1_234_567] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"step-4 cannot be loaded: critic.*states\.pt is dam"):
        check_checksums(checkpoints, 4)


def test_a_missing_file_and_a_damaged_list(checkpoints):
    (checkpoints / "actor" / "step-4" / "states.pt").unlink()
    with pytest.raises(UserError, match=r"actor/step-4/states\.pt is missing"):
        check_checksums(checkpoints, 4)
    checksum_file(checkpoints, 4).write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="its list of checksums is damaged"):
        check_checksums(checkpoints, 4)


def test_older_checkpoints_have_no_checksums(checkpoints):
    check_checksums(checkpoints, 2)


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
