"""How long PPO runs, whose numbers it stores, its learning rates, and one λ per update."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import safe_rlhf_panacea.base.rl as rl_module
from safe_rlhf_panacea.base.engine import learning_rate
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.passes import has_dropout
from tests.algorithms.conftest import write_lines
from tests.algorithms.helpers import dpo_trainer, ppo_trainer


def different(count):
    """So many different prompts."""
    letters = "cdefg"
    return [
        {"prompt": letters[i % 5] + letters[i // 5 % 5] + letters[i // 25]} for i in range(count)
    ]


@pytest.fixture
def trainer_of(ppo_flags, tmp_path):
    """A trainer on so many prompts; ``--max_steps`` is left to its flags."""

    def make(prompts, *extra):
        data = write_lines(tmp_path / "prompts.jsonl", different(prompts))
        place = ppo_flags.index("--max_steps")
        flags = ppo_flags[:place] + ppo_flags[place + 2 :]
        flags += ["--train_datasets", f"prompts:1:{data}", "--max_length", "22"]
        return ppo_trainer([*flags, *map(str, extra)])

    return make


def sizes(prompts, rows, accumulation):
    return (
        *("--per_device_prompt_batch_size", prompts, "--per_device_train_batch_size", rows),
        *("--gradient_accumulation_steps", accumulation),
    )


def watch_steps(trainer, before=lambda batch: None):
    """Every training step's batch and what was logged; ``before`` sees the batch first."""
    step, steps = trainer.rl_step, []

    def watched(batch):
        before(batch)
        steps.append((batch, step(batch)))
        return steps[-1][1]

    trainer.rl_step = watched
    return steps


def old_numbers(trainer):
    """The log-probabilities and values that every training step takes for the old ones."""
    penalise, estimate = (
        trainer.add_kl_divergence_regularization,
        trainer.get_advantages_and_returns,
    )
    log_probs, pairs = [], []

    def penalised(reward, prompt, old, *args):
        log_probs.append(old)
        return penalise(reward, prompt, old, *args)

    def estimated(values, *args):
        pairs.append((log_probs[-1], values))
        return estimate(values, *args)

    trainer.add_kl_divergence_regularization = penalised
    trainer.get_advantages_and_returns = estimated
    return pairs


def watch_logs(trainer):
    logs = []
    trainer.logger.log = lambda metrics, step: logs.append(metrics)
    return logs


# 24 prompts, 16 at a time: a rollout of two micro-batches and one of one. 0: an update begins.
RAGGED = (24, *sizes(16, 8, 2), "--epochs", 4)
# Two responses to each of 32 prompts, 8 at a time: two micro-batches of 8, not one of 16.
RESPONSES = (32, *sizes(8, 16, 1), "--epochs", 1, "--num_return_sequences", 2)


@pytest.mark.parametrize(
    ("case", "steps", "epochs", "fresh"),
    [
        (RAGGED, 12, 4, [True, True, True, True, False, True] * 2),
        (RESPONSES, 8, 1, [True, False] * 4),
    ],
)
def test_old_numbers_are_those_of_the_policy_and_critic_that_rolled_out(
    trainer_of, case, steps, epochs, fresh
):
    """And an epoch is one pass over the prompts."""
    trainer = trainer_of(*case, "--critic_lr", "5e-3")
    drawn_by, post_rollout, seen, shortcuts = {}, trainer.post_rollout, [], []

    def noting(prompt, sequence, attention_mask):
        start = prompt.size(1) - 1
        batch = post_rollout(prompt, sequence, attention_mask=attention_mask)
        drawn_by[id(sequence)] = (
            trainer.log_probs(trainer.actor_model, sequence, attention_mask, start),
            trainer.critic_values(sequence, attention_mask),
            start,
        )
        shortcuts.append("log_probs" not in batch)
        seen.extend(trainer.tokenizer.batch_decode(prompt))
        return batch

    trainer.post_rollout = noting
    used = old_numbers(trainer)
    steps_taken, logs = watch_steps(trainer), watch_logs(trainer)
    trainer.train()
    assert len(steps_taken) == trainer.global_step == trainer.total_steps == steps
    for (batch, _), (old_log_probs, old_values) in zip(steps_taken, used, strict=True):
        log_probs, values, start = drawn_by[id(batch["input_ids"])]
        mask = batch["attention_mask"][:, 1:].clone()
        mask[:, :start] = False
        assert torch.allclose(old_log_probs[mask], log_probs[mask], atol=1e-4)
        assert torch.allclose(old_values[mask], values[mask], atol=1e-4)
    assert shortcuts == fresh  # where an update comes in between, the numbers are stored
    responses = trainer.args.num_return_sequences
    visits = Counter(seen)
    assert len(visits) == case[0]
    assert set(visits.values()) == {epochs * responses}
    assert [line["train/epoch"] for line in logs] == pytest.approx(
        [epochs * (i + 1) / steps for i in range(steps)]
    )


def test_a_run_too_short_for_an_update_is_refused(trainer_of):
    with pytest.raises(UserError, match=r"1 training steps, fewer than --gradient_acc.* 2"):
        trainer_of(8, *sizes(8, 8, 2), "--epochs", 1)


def cosine(peak, update, updates, warmup):
    """Linear from 0, then half a cosine down to 0."""
    if update < warmup:
        return peak * update / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (update - warmup) / (updates - warmup)))


@pytest.mark.parametrize(("accumulation", "with_texts"), [(1, False), (3, True)])
def test_learning_rate_at_every_update(trainer_of, texts, accumulation, with_texts):
    flags = ["--actor_lr", "2e-3", "--actor_lr_warmup_ratio", "0.3", "--critic_lr", "1e-3"]
    flags += ["--critic_lr_scheduler_type", "cosine", "--critic_lr_warmup_ratio", "0.5"]
    flags += ["--ptx_datasets", f"supervised:1:{texts}"] * with_texts
    # 3 training steps an epoch, 5 epochs, of which the last is short: 14 steps.
    trainer = trainer_of(24, *sizes(16, 8, accumulation), "--max_steps", 14, *flags)
    rates = {"actor": [], "critic": []}
    for role, engine in trainer.checkpoint_engines().items():
        step = engine.step

        def watched(step=step, engine=engine, found=rates[role]):
            if engine.is_gradient_accumulation_boundary():
                found.append(learning_rate(engine))
            step()

        engine.step = watched
    trainer.train()
    updates = 14 // accumulation  # 14 or 4
    for role, peak, warmup in (("actor", 2e-3, 0.3), ("critic", 1e-3, 0.5)):
        steps = int(warmup * updates)
        expected = [cosine(peak, update, updates, steps) for update in range(updates)]
        assert rates[role] == pytest.approx(expected, rel=1e-6), role


# λ by training step: the same number, the same λ.
PASSES, RESPONSE_FLAG = "--update_iters", "--num_return_sequences"


@pytest.mark.parametrize(
    ("prompts", "flags", "expected"),
    [
        (32, sizes(8, 8, 2), [0, 0, 1, 1]),
        (32, sizes(16, 8, 1), [0, 1, 2, 3]),
        (24, (*sizes(16, 8, 2), "--epochs", 2), [0, 0, 1, 1, 2, 2]),  # across an epoch's end
        (32, (*sizes(8, 8, 3), RESPONSE_FLAG, 2), [0, 0, 0, 0, 0, 0, 1, 1]),
        (32, (*sizes(16, 8, 1), PASSES, 2), [0] * 4 + [1] * 4),
        (48, (*sizes(16, 8, 3), PASSES, 2), [0] * 12),
    ],
)
def test_one_preference_per_update(trainer_of, prompts, flags, expected):
    trainer = trainer_of(prompts, *flags, *(() if "--epochs" in flags else ("--epochs", 1)))
    steps = watch_steps(trainer)
    trainer.train()
    assert all(len(batch["preference"].unique(dim=0)) == 1 for batch, _ in steps)
    found = [tuple(batch["preference"][0].tolist()) for batch, _ in steps]
    different_ones = list(dict.fromkeys(found))
    assert [different_ones.index(preference) for preference in found] == expected
    assert trainer.panacea.source.drawn.sum(dim=1).tolist() == [len(different_ones)] * 2
    accumulation = trainer.reward_critic_model.gradient_accumulation_steps()
    for start in range(0, len(found), accumulation):
        assert len(set(found[start : start + accumulation])) == 1


def test_supervised_text_sees_the_updates_preference(trainer_of, texts, monkeypatch):
    flags = [*sizes(8, 8, 2), "--ptx_datasets", f"supervised:1:{texts}", "--epochs", 1]
    trainer = trainer_of(32, *flags)
    steps, loss, seen = watch_steps(trainer), rl_module.next_token_loss, []

    def watched(*args):
        seen.append(trainer.panacea.policy.preference.tolist())
        return loss(*args)

    monkeypatch.setattr(rl_module, "next_token_loss", watched)
    trainer.train()
    assert seen == [batch["preference"][0].tolist() for batch, _ in steps]
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_in_scope_sample_every_rollout_draws(trainer_of):
    trainer = trainer_of(16, *sizes(8, 8, 2), "--epochs", 1, "--preference_scope", "sample")
    steps = watch_steps(trainer)
    trainer.train()
    rows = torch.cat([batch["preference"] for batch, _ in steps])
    assert len({tuple(row) for row in rows.tolist()}) == len(rows) == 16


def test_rollouts_that_would_share_one_preference_for_an_epoch_are_refused(trainer_of):
    flags = [*sizes(16, 8, 4), PASSES, 2, "--epochs", 2]
    with pytest.raises(UserError, match="an epoch has 6 training steps, no multiple of 4"):
        trainer_of(24, *flags)
    trainer_of(24, *flags, "--preference_scope", "sample")


def test_dpo_takes_one_preference_per_update(dpo_flags):
    flags = [*dpo_flags, "--gradient_accumulation_steps", "2", "--max_steps", "6"]
    trainer = dpo_trainer(flags)
    found = []

    def watched(module, args):
        if torch.is_grad_enabled():
            found.append(tuple(trainer.panacea.policy.preference.tolist()))

    trainer.model.module.register_forward_pre_hook(watched)
    trainer.train()
    assert found[::2] == found[1::2]
    assert len(set(found)) == 3


def test_dropout_without_a_module_counts(trainer_of, base_model, tmp_path):
    folder = shutil.copytree(base_model, tmp_path / "dropping")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    trainer = trainer_of(8, "--epochs", 1, "--actor_model_name_or_path", folder)
    assert not any(isinstance(m, nn.Dropout) for m in trainer.actor_model.module.modules())
    assert not trainer.on_policy


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"attention_dropout": 0.0, "hidden_size": 3, "id2label": {0: "a"}}, False),
        ({"attn_pdrop": 0.1}, True),
        ({"text_config": {"hidden_dropout": 0.1}}, True),
        ({"layerdrop": 0.2}, True),
        ({"classifier_dropout": 0.1, "summary_first_dropout": 0.1, "dropout": None}, False),
    ],
)
def test_has_dropout_reads_the_configuration(config, expected):
    module = nn.Linear(2, 2)
    module.config = SimpleNamespace(to_dict=lambda: config)
    assert has_dropout(module) == expected
    assert has_dropout(nn.Sequential(module, nn.Dropout(0.1)))
