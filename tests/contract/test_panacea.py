"""Ten steps of Panacea on both sides: the same λ, the same losses."""

from __future__ import annotations

import json

import pytest
import torch

from safe_rlhf_panacea.runs.divergence import DivergedError
from tests.contract.scripts import STEPS, Log, column, follow, rollouts
from tests.contract.sides import (
    SIDES,
    both_sides,
    make,
    needs_safe_rlhf,
    panacea_class,
    plain_class,
)

pytestmark = needs_safe_rlhf


def watch(trainer):
    """Log and λ of every step."""
    trainer.logger = log = Log()
    drawn = []
    draw = trainer.panacea.source.draw
    trainer.panacea.source.draw = lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    return log, drawn


def two(algorithm, files, tmp_path, extra=()):
    """Panacea on both sides; the adapters start alike without help: same seed, same order."""
    return [
        make(panacea_class(algorithm, s), algorithm, s, files, tmp_path / s, extra) for s in SIDES
    ]


def agree(logs, names, tolerance=1e-4, steps=STEPS):
    for name in names:
        ours, theirs = (column(log, f"train/{name}") for log in logs)
        assert len(ours) == len(theirs) == steps, name
        assert ours == pytest.approx(theirs, abs=tolerance, rel=tolerance), name
        assert len({round(value, 5) for value in ours}) > 1, name


def same_start(trainers):
    ours, theirs = (trainer.panacea.policy.state_dict() for trainer in trainers)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--preference_scope", "sample"),
        ("--aggregation", "tche"),
        ("--gradient_checkpointing", "--upstream_dpo_slice"),
        ("--pref_rank", "2", "--scaling_lr_multiplier", "4"),
        ("--preference_scope", "sample", "--preference_for_labels"),
    ],
)
def test_dpo(files, tmp_path, extra):
    trainers = two("dpo", files, tmp_path, extra)
    assert same_start(trainers)
    batches = list(trainers[0].train_dataloader)  # the samplers shuffle differently
    watched = [watch(trainer) for trainer in trainers]
    for trainer in trainers:
        trainer.train_dataloader = batches
        trainer.train()
    logs, drawn = zip(*watched, strict=True)
    assert len(drawn[0]) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    agree(logs, ("loss", "loss_helpful", "loss_harmless", "reward_margin"))
    assert column(logs[1], "train/accuracy_helpful")


def test_dpo_counts_labels_over_an_update(files, tmp_path):
    """Nine of ten batches have no label for harmless; five make an update."""
    trainers = two("dpo", files, tmp_path, ("--gradient_accumulation_steps", "5"))
    batches = list(trainers[0].train_dataloader)
    for number, batch in enumerate(batches):
        batch["labels"][:, 1] *= number == 7
    watched = [watch(trainer) for trainer in trainers]
    trainers[0].train_dataloader = trainers[1].train_dataloader.loader = batches
    for trainer in trainers:
        trainer.train()
    logs = [log for log, _ in watched]
    agree(logs, ("loss", "loss_helpful", "reward_margin"))
    alone = [[line.get("train/loss_harmless") for line in log.lines] for log in logs]
    assert [values.count(None) for values in alone] == [STEPS - 1] * 2
    assert alone[0][7] == pytest.approx(alone[1][7], abs=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--preference_scope", "sample"),
        ("--aggregation", "tche"),
        ("--actor_gradient_checkpointing", "--critic_gradient_checkpointing"),
        ("--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "4"),
    ],
)
def test_ppo(files, tmp_path, extra):
    trainers = two("ppo", files, tmp_path, ("--reward_scales", "harmless=5", *extra))
    assert same_start(trainers)
    # The port's score model draws a head that the checkpoint then replaces, so that the critics'
    # adapters, made after it, start at other places of the same stream.
    ours, theirs = (trainer.reward_critic_model.module.adapter for trainer in trainers)
    theirs.load_state_dict(ours.state_dict())
    given = int(extra[1]) if "--gradient_accumulation_steps" in extra else 1
    for side in SIDES:
        record = json.loads((tmp_path / side / "run.json").read_text())["args"]
        assert record["gradient_accumulation_steps"] == given  # though PTX doubles the actor's
    batches, micro = rollouts(), 8 // given
    ptx = list(trainers[0].ptx_dataloader)
    watched = [watch(trainer) for trainer in trainers]
    for side, trainer in zip(SIDES, trainers, strict=True):
        follow(trainer, side, batches, micro)
        trainer.ptx_dataloader = ptx
        trainer.ptx_sampler = getattr(trainer, "data_sampler", None)
        trainer.train()
    logs, drawn = zip(*watched, strict=True)
    assert len(drawn[0]) == STEPS * given
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    agree(
        logs,
        (
            *("actor_loss", "reward_critic_loss", "reward", "reward_value", "kl_divergence"),
            *("reward_helpful", "reward_harmless", "ptx_loss", "reward_advantage"),
        ),
        steps=STEPS * given,
    )


@pytest.mark.parametrize(("algorithm", "count"), [("dpo", 1), ("ppo", 3)])
def test_backbones_held(algorithm, count, files, tmp_path, monkeypatch):
    """1 for DPO, 1 + m for PPO, where Safe-RLHF itself loads 2 and 4 (3 + m for m rewards)."""
    trainer_class, loaded = panacea_class(algorithm, "safe_rlhf"), []
    from safe_rlhf.models import pretrained

    for auto in (pretrained.AutoModelForCausalLM, pretrained.AutoModelForScore):

        def noting(*args, load=auto.from_pretrained, **kwargs):
            loaded.append(args[0])
            return load(*args, **kwargs)

        monkeypatch.setattr(auto, "from_pretrained", noting)
    make(trainer_class, algorithm, "safe_rlhf", files, tmp_path)
    assert len(loaded) == count


@both_sides
def test_with_rules_alone_the_critic_stands_on_the_policy(side, files, tmp_path):
    rules = "safe_rlhf_panacea.reward_functions"
    rewards = [f"helpful={rules}:matches?pattern=a", f"harmless={rules}:concise?max_length=3"]
    extra = ["--reward_models", *rewards, "--critic_gradient_checkpointing"]
    trainer = make(panacea_class("ppo", side), "ppo", side, files, tmp_path, extra)
    trainer.train()
    actor, critic = trainer.actor_model.module, trainer.reward_critic_model.module
    frozen = {id(p) for p in actor.parameters() if not p.requires_grad}
    assert {id(p) for p in critic.parameters() if not p.requires_grad} < frozen
    assert all(p.abs().max() > 0 for p in trainer.panacea.adapters["critic"].parameters())


def test_the_adapter_is_saved_and_read_back(files, tmp_path):
    from safe_rlhf_panacea.respond import PanaceaModel

    trainer = make(panacea_class("dpo", "safe_rlhf"), "dpo", "safe_rlhf", files, tmp_path)
    trainer.train()
    trainer.save()
    model = PanaceaModel.load(str(tmp_path))
    saved = model.adapter.state_dict()
    assert all(torch.equal(saved[k], v) for k, v in trainer.panacea.policy.state_dict().items())
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("environ.txt"))


@pytest.mark.parametrize(("algorithm", "side"), [("dpo", s) for s in SIDES] + [("ppo", SIDES[1])])
def test_a_step_that_is_not_finite_ends_the_run(files, tmp_path, algorithm, side):
    extra = ["--lr", "1e30"] if algorithm == "dpo" else ["--critic_lr", "1e30"]
    trainer = make(panacea_class(algorithm, side), algorithm, side, files, tmp_path / side, extra)
    with pytest.raises(DivergedError, match=r"^step \d+ \(λ helpful=.*is (nan|inf)"):
        trainer.train()


@pytest.fixture(scope="module")
def one_label_each():
    """A raw data set of the user's own: twelve pairs labelled for helpful, twenty for harmless."""
    plain_class("dpo", "safe_rlhf")  # Safe-RLHF is patched before anything of it is imported
    from safe_rlhf.datasets import RawDataset

    class OneLabelEach(RawDataset):
        NAME = "one-label-each"
        ALIASES = ()

        def __init__(self, path=None):
            del path

        def __getitem__(self, index):
            label = {"helpful" if index < 12 else "harmless": index % 2}
            return {"input": "cde", "answer": "aa", "other_answer": "bb", "labels": label}

        def __len__(self):
            return 32

    return OneLabelEach  # Safe-RLHF itself holds it weakly


@pytest.mark.parametrize(("preference", "pairs"), [("0,1", 20), ("0.5,0.5", 32)])
def test_a_fixed_preference_trains_on_no_pair_it_gives_no_weight(
    files, tmp_path, one_label_each, preference, pairs
):
    extra = ["--train_datasets", one_label_each.NAME, "--fixed_preference", preference]
    trainer_class = panacea_class("dpo", "safe_rlhf")
    trainer = make(trainer_class, "dpo", "safe_rlhf", files, tmp_path, extra)
    assert len(trainer.train_dataloader.dataset) == pairs
