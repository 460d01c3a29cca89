"""GRPO and PPO whose responses a server draws; tests/rollouts/stand_in.py stands for vLLM."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.algorithms.grpo import main as grpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.algorithms.served import token_weights
from safe_rlhf_panacea.base.losses import grpo_loss
from tests.algorithms.test_resuming import Interrupted, metrics, same_tensors, stop_at  # noqa: F401
from tests.rollouts.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("no_page")

LAMBDA = ("train/preference_helpful", "train/preference_harmless")
# Two micro-batches of two groups in an update, four updates, a checkpoint after the second.
UPDATES = (
    *("--max_steps", "8", "--per_device_train_batch_size", "8"),
    *("--gradient_accumulation_steps", "2", "--save_interval", "4", "--preference_scope", "sample"),
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("safe_rlhf_panacea.rollouts.completions.WAITS", (0.0,))


def served(main, flags, folder, server, *more):
    """Train with responses of a server; the later flags count."""
    server.adapters["rollouts"] = folder / "rollouts"
    engine = ("--rollout_engine", "vllm", "--rollout_server", server.url)
    main([*flags, "--output_dir", str(folder), *engine, *more])


_whole = {}


@pytest.fixture
def whole(grpo_flags, base_model, tmp_path_factory):
    """The folder of a training that nothing interrupts, and the server that it has asked."""
    if not _whole:
        _whole["folder"] = tmp_path_factory.mktemp("whole") / "run"
        with StandIn(base_model, {}) as _whole["server"]:
            served(grpo, [*grpo_flags, *UPDATES], *_whole.values())
    return _whole["folder"], _whole["server"]


def steps(folder):
    return [line for line in metrics(folder) if "train/reward" in line]


def versions(server):
    """Of each request, how many updates its adapter had seen; the first is a check."""
    names = [body["model"].partition("@")[0] for body in server.asked]
    return [int(name.rpartition("-")[2]) for name in names][1:]


def test_grpo_asks_at_the_same_preferences_and_hears_its_own_policy(grpo_flags, whole, tmp_path):
    folder, server = whole
    grpo([*grpo_flags, *UPDATES, "--output_dir", str(tmp_path / "own")])
    own, found = steps(tmp_path / "own"), steps(folder)
    assert [[line[key] for key in LAMBDA] for line in own] == [
        [line[key] for key in LAMBDA] for line in found
    ]
    assert versions(server) == [update for update in range(4) for _ in range(4)]
    assert len({body["model"] for body in server.asked}) == 1 + 16
    assert len({body["seed"] for body in server.asked}) == 1 + 16
    # After the first update the adapter is no longer 0: the server has the same one.
    assert max(line["train/sampling_logp_difference"] for line in found) < 1e-5
    assert all(line["train/importance_sampling_ratio"] == pytest.approx(1) for line in found)
    assert len({line["train/mean_generated_length"] for line in found}) > 2
    assert not any((folder / "rollouts").iterdir())
    assert {name.partition("@")[0][-2:] for name in server.unloaded} == {"-0", "-1"}
    assert len({*server.unloaded}) == 4 + 4 + 1  # of the first two versions, and the check's


def test_an_adapter_for_one_preference_has_no_preference_in_its_name(
    grpo_flags, base_model, tmp_path
):
    flags = [*grpo_flags, "--fixed_preference", "helpful=0.3,harmless=0.7", "--max_steps", "3"]
    with StandIn(base_model, {}) as server:
        served(grpo, flags, tmp_path / "served", server)
    assert not any("@" in body["model"] for body in server.asked)
    assert versions(server) == [update for update in range(3) for _ in range(4)]
    assert max(line["train/sampling_logp_difference"] for line in steps(tmp_path / "served")) < 1e-5


@pytest.mark.parametrize("dies", ["server", "trainer"])
def test_what_dies_in_the_middle_loses_nothing(
    grpo_flags,
    base_model,
    whole,
    tmp_path,
    stop_at,  # noqa: F811
    dies,
    capsys,
):
    flags, parts = [*grpo_flags, *UPDATES], tmp_path / "parts"
    if dies == "trainer":
        stop_at(7)
        with StandIn(base_model, {}) as server, pytest.raises(Interrupted):
            served(grpo, flags, parts, server)
        stop_at(None)
    else:
        with StandIn(base_model, {}, alive=1 + 4 * 3 + 2) as server, pytest.raises(SystemExit):
            served(grpo, flags, parts, server)
        message = capsys.readouterr().err
        assert f"error: step 7: no rollout server is left: {server.url} " in message
        assert "the checkpoint of step 6 is kept, from which --resume goes on" in message
    torch.manual_seed(123)  # whatever the new process's random numbers are
    with StandIn(base_model, {}) as server:
        served(grpo, flags, parts, server, "--resume")
    assert versions(server)[0] == (3 if dies == "server" else 2)
    assert metrics(parts) == metrics(whole[0])
    assert same_tensors((whole[0], parts), "adapter_model.safetensors")


def test_rollouts_one_update_old(grpo_flags, base_model, whole, tmp_path, stop_at):  # noqa: F811
    flags = [*grpo_flags, *UPDATES, "--rollout_stale"]
    with StandIn(base_model, {}) as server:
        served(grpo, flags, tmp_path / "stale", server)
        old = [max(0, update - 1) for update in range(4) for _ in range(4)]
        assert sorted(versions(server))[:16] == old  # a batch's requests come in any order
        stop_at(7)
        with pytest.raises(Interrupted):
            served(grpo, flags, tmp_path / "parts", server)
        stop_at(None)
        served(grpo, flags, tmp_path / "parts", server, "--resume")
    fresh, stale, parts = map(steps, (whole[0], tmp_path / "stale", tmp_path / "parts"))
    for found in (stale, parts):
        assert [[line[key] for key in LAMBDA] for line in fresh] == [
            [line[key] for key in LAMBDA] for line in found
        ]
    assert stale[3]["train/sampling_logp_difference"] > 1e-3  # of the second update


def test_ppo_with_several_responses_and_supervised_text(
    ppo_flags, base_model, texts, tmp_path, capsys
):
    flags = [*ppo_flags, "--num_return_sequences", "2", "--max_steps", "6"]
    flags += ["--per_device_prompt_batch_size", "8", "--ptx_datasets", f"supervised:1:{texts}"]
    with StandIn(base_model, {}) as server:
        served(ppo, flags, tmp_path / "whole", server)
    found = steps(tmp_path / "whole")
    assert max(line["train/sampling_logp_difference"] for line in found) < 1e-5
    with StandIn(base_model, {}, alive=1 + 8 * 2) as server, pytest.raises(SystemExit):
        served(ppo, flags, tmp_path / "parts", server)
    assert "the checkpoint of step 4 is kept" in capsys.readouterr().err
    with StandIn(base_model, {}) as server:
        served(ppo, flags, tmp_path / "parts", server, "--resume")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


@pytest.mark.parametrize(("main", "kind"), [(grpo, "grpo"), (ppo, "ppo")])
def test_truncated_importance_sampling_scales_the_first_loss(
    main, kind, grpo_flags, ppo_flags, base_model, tmp_path
):
    """The server's log-probabilities are 0.05 too high: weights are exp(-0.05), or the cap."""
    flags = [*(grpo_flags if kind == "grpo" else ppo_flags), "--max_steps", "1"]
    correction = "--vllm_importance_sampling_correction"
    losses = {}
    with StandIn(base_model, {}, shift=0.05) as server:
        for name, more in (
            ("plain", ()),
            ("corrected", (correction,)),
            ("capped", (correction, "--vllm_importance_sampling_cap", "0.5")),
        ):
            served(main, flags, tmp_path / name, server, *more)
            (line,) = steps(tmp_path / name)
            losses[name] = line["train/actor_loss"]
            assert line["train/sampling_logp_difference"] == pytest.approx(0.05, abs=1e-4)
    assert abs(losses["plain"]) > 1e-3
    assert losses["corrected"] == pytest.approx(losses["plain"] * math.exp(-0.05), rel=1e-4)
    assert losses["capped"] == pytest.approx(losses["plain"] * 0.5, rel=1e-4)


def test_the_weighted_loss_agrees_with_a_loop():
    draw = torch.Generator().manual_seed(0)
    now, old, reference, engine = (-torch.rand(3, 4, generator=draw) for _ in range(4))
    engine[0, 0] -= 3  # its weight is cut off
    advantages, mask = torch.tensor([1.0, -0.5, 2.0]), torch.rand(3, 4, generator=draw) > 0.3
    mask[0, 0] = True
    args = SimpleNamespace(
        vllm_importance_sampling_correction=True, vllm_importance_sampling_cap=2.0
    )
    weights = token_weights(args, {"sampling_log_probs": engine}, old)
    found = grpo_loss(
        *(now, old, reference, advantages, mask),
        clip_range=0.2,
        kl_coeff=0.1,
        token_weights=weights,
    )
    total = 0.0
    for b, t in mask.nonzero().tolist():
        new, before, ref, theirs = (float(x[b, t]) for x in (now, old, reference, engine))
        ratio, advantage = math.exp(new - before), float(advantages[b])
        surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        weight = min(math.exp(before - theirs), 2.0)
        total += -weight * surrogate + 0.1 * (math.exp(ref - new) - (ref - new) - 1)
    assert float(found) == pytest.approx(total / int(mask.sum()), rel=1e-5)
