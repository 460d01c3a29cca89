"""What opens a front early: several values for each objective, the rate of s, λ for the labels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from tests.algorithms.conftest import write_lines
from tests.algorithms.helpers import dpo_trainer, ppo_trainer
from tests.algorithms.test_dpo import first_batch, loss_at, perturb
from tests.algorithms.test_resuming import both_ways, same_runs, stop_at  # noqa: F401 (a fixture)
from tests.algorithms.test_updates import pair_losses, tensors_of

FOR_LABELS = ("--preference_scope", "sample", "--preference_for_labels")
VERTICES = ("--preference_sampler", "vertices", "--vertex_probability", "0.5")


@pytest.fixture(scope="module")
def mixed_labels(tmp_path_factory):
    """Pairs with the label of one objective, of the other, of both."""
    rows = []
    for row in range(48):
        labels = {"better_helpful": row % 2, "better_harmless": 1 - row % 2}
        if row % 3:
            del labels[list(labels)[row % 3 - 1]]
        answers = {"response_0": "b" * (2 + row % 4), "response_1": "a" * (3 + row % 3)}
        rows.append({"prompt": "cdefg"[row % 5] * 2, **answers, **labels})
    folder = tmp_path_factory.mktemp("mixed")
    return f"pairs:1:{write_lines(folder / 'pairs.jsonl', rows)}"


def test_loss_with_preferences_drawn_for_the_labels(dpo_flags, mixed_labels):
    trainer = dpo_trainer([*dpo_flags, *FOR_LABELS, "--train_datasets", mixed_labels])
    perturb(trainer)
    batch = first_batch(trainer)
    labels = batch["labels"].tolist()
    assert {tuple(map(abs, row)) for row in labels} == {(1, 0), (0, 1), (1, 1)}
    preference = trainer.panacea.source.draw(len(labels), labelled=batch["labels"].ne(0))
    tensors, _ = tensors_of(trainer)
    update = SimpleNamespace(used=[batch], drawn=[preference], tensors=tensors)
    losses = pair_losses(update)[0].tolist()
    expected = 0.0
    for i in range(2):
        rows = [row for row in range(len(labels)) if labels[row][i]]
        for row in rows:
            λ = preference[row].tolist()
            one_label = 0 in labels[row]
            weight = 0.5 if one_label else λ[i]  # λ_i / λ_i · |S| / m
            expected += weight * losses[row][i] / len(rows)
    loss = loss_at(trainer, batch, preference)["loss"]
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_s_learns_at_a_rate_of_its_own(dpo_flags):
    """AdamW's first step moves a parameter by its rate, its second by at most a little more."""
    rate = ["--lr", "1e-3", "--lr_scheduler_type", "constant", "--lr_warmup_ratio", "0"]
    flags = [*dpo_flags, *rate, "--max_steps", "2", "--scaling_lr_multiplier", "8"]
    trainer = dpo_trainer(flags)
    whole, moved = trainer.train_step, []

    def train_step(**batch):
        info = whole(**batch)
        named = trainer.panacea.policy.named_parameters().items()
        moved.append({name: p.detach().abs().max().item() for name, p in named})
        return info

    trainer.train_step = train_step
    trainer.train()
    first, second = moved
    for name, size in first.items():
        if name.endswith(("lora_s", "lora_sigma")):
            rate = 8e-3 if name.endswith("lora_s") else 1e-3
            assert size == pytest.approx(rate, rel=1e-3)
            assert second[name] <= 2 * rate * 1.001


def test_actor_and_critic_take_the_rate_too(ppo_flags):
    trainer = ppo_trainer([*ppo_flags, "--scaling_lr_multiplier", "4", "--pref_rank", "2"])
    for role, adapter in trainer.panacea.adapters.items():
        engine = trainer.actor_model if role == "policy" else trainer.reward_critic_model
        scales = {id(layer.lora_s) for layer in adapter.layers.values()}
        base, *_, last = engine.optimizer.param_groups
        assert {id(parameter) for parameter in last["params"]} == scales
        assert last["initial_lr"] == pytest.approx(4 * base["initial_lr"])
        assert adapter.config.rank == 8 + 2 * 2


def test_all_of_it_trains_and_resumes_bit_for_bit(
    dpo_flags,
    mixed_labels,
    tmp_path,
    stop_at,  # noqa: F811
):
    flags = [*dpo_flags, *FOR_LABELS, *VERTICES, "--train_datasets", mixed_labels]
    flags += ["--pref_rank", "3", "--scaling_lr_multiplier", "2", "--max_steps", "8"]
    folders = both_ways(dpo, [*flags, "--save_interval", "3"], tmp_path, stop_at, 5)
    same_runs(folders)
    assert read_config(folders[0]).pref_rank == 3


def test_the_samplers_parameters_go_from_one_value_to_the_other(dpo_flags, monkeypatch):
    flags = ["--preference_sampler", "vertices", "--vertex_probability", "1"]
    flags += ["--vertex_probability_end", "0", "--max_steps", "4"]
    trainer = dpo_trainer([*dpo_flags, *flags])
    sampler, found = trainer.panacea.source.sampler, []
    draw = sampler.sample
    noted = lambda *args: found.append(sampler.vertex_probability) or draw(*args)  # noqa: E731
    monkeypatch.setattr(sampler, "sample", noted)
    trainer.train()
    assert found == [1, 0.75, 0.5, 0.25]
