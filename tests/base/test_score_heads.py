"""A model without a score head of its own gives no scores."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore
from safe_rlhf_panacea.models.files import check_saved_head
from tests.base.test_score_checkpoints import ALL, save_lm, write_safe_rlhf


@ALL
@pytest.mark.parametrize("check", [AutoModelForScore.from_pretrained, check_saved_head])
def test_a_language_model_is_no_reward_model(architecture, check, tmp_path):
    save_lm(tmp_path, architecture)
    with pytest.raises(UserError, match=r"no reward model: its weights lack score_head\.weight"):
        check(str(tmp_path))


def test_safe_rlhfs_own_files_are_asked_for_a_head(tmp_path):
    """It saves pickles, in one file or several, and its loader makes up what is missing."""
    reward_model = tmp_path / "reward"
    write_safe_rlhf(reward_model, older=True)
    tensors = load_file(reward_model / "model.safetensors")
    check_saved_head(str(reward_model))
    check_saved_head("nobody/nothing")
    index = tmp_path / "pytorch_model.bin.index.json"
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    check_saved_head(str(tmp_path))
    del tensors["score_head.weight"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no reward model"):
        check_saved_head(str(tmp_path))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "some.bin")}))
    with pytest.raises(UserError, match="no reward model"):
        check_saved_head(str(tmp_path))
