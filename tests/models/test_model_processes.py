"""With several processes: statistics of all their scores, and a random stream for each."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist

from safe_rlhf_panacea.models import AutoModelForScore
from safe_rlhf_panacea.runs.checkpoint import capture_random_state, restore_random_state
from tests.models.score_models import CONFIGS, VOCAB, padded
from tests.warm_python import ROOT, warm_python


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = AutoModelForScore.from_config(CONFIGS["llama"], normalizer_type="RunningMeanStd")
    ids, mask = padded("right")
    end = model.train()((ids + rank) % VOCAB, attention_mask=mask).end_scores.detach()

    torch.manual_seed(rank)
    saved = capture_random_state()
    first = torch.rand(2)
    torch.manual_seed(9)
    restore_random_state(saved)
    result = {"end": end, "mean": model.normalizer.mean, "var": model.normalizer.var}
    torch.save({**result, "first": first, "again": torch.rand(2)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.multiprocess
def test_two_processes(tmp_path):
    command = [warm_python(), "-m", "tests.models.test_model_processes", str(tmp_path)]
    workers = [subprocess.Popen([*command, rank], cwd=ROOT) for rank in "01"]
    assert [worker.wait() for worker in workers] == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    ends = np.concatenate([one["end"].double().numpy(), two["end"].double().numpy()])
    for result in (one, two):
        np.testing.assert_allclose(result["mean"].numpy(), ends.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(result["var"].numpy(), ends.var(axis=0), rtol=1e-4)
        assert torch.equal(result["first"], result["again"])
    assert not torch.equal(one["first"], two["first"])


if __name__ == "__main__":
    work(int(sys.argv[2]), sys.argv[1])
