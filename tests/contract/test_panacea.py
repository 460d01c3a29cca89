"""Ten steps of Panacea on both sides: the same λ, the same losses."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.base.divergence import DivergedError
from tests.contract.sides import make, needs_safe_rlhf, panacea_class

pytestmark = needs_safe_rlhf
STEPS = 10
SIDES = ("port", "safe_rlhf")


class Log:
    """A logger that keeps what it is given, step by step."""

    def __init__(self):
        self.lines = []

    def log(self, metrics, step):
        self.lines.append(dict(metrics))

    def print(self, *_, **__):
        pass

    close = print


def watch(trainer):
    """Log and λ of every step."""
    trainer.logger = log = Log()
    drawn = []
    draw = trainer.preferences.draw
    trainer.preferences.draw = lambda rows: drawn.append(draw(rows)) or drawn[-1]
    return log, drawn


def two(algorithm, files, tmp_path, extra=()):
    """Panacea on both sides; the adapters start alike without help: same seed, same order."""
    return [
        make(panacea_class(algorithm, s), algorithm, s, files, tmp_path / s, extra) for s in SIDES
    ]


def column(log, name):
    return [line[name] for line in log.lines if name in line]


def agree(logs, names, tolerance=1e-4):
    for name in names:
        ours, theirs = (column(log, f"train/{name}") for log in logs)
        assert len(ours) == len(theirs) == STEPS, name
        assert ours == pytest.approx(theirs, abs=tolerance, rel=tolerance), name
        assert len({round(value, 5) for value in ours}) > 1, name


def same_start(trainers):
    ours, theirs = (trainer.adapter.state_dict() for trainer in trainers)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--preference_scope", "sample"),
        ("--aggregation", "tche"),
        ("--gradient_checkpointing",),
        ("--upstream_dpo_slice",),
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


def script(files, steps=STEPS):
    """Prompts and responses of every rollout: the two sides draw theirs differently."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(steps):
        prompts = torch.randint(9, 50, (8, 7), generator=generator)
        responses = torch.randint(9, 50, (8, 10), generator=generator)
        lengths = torch.randint(1, 10, (8, 1), generator=generator)
        place = torch.arange(10)
        responses[place.expand(8, -1) == lengths] = 2  # the end token
        responses[place > lengths] = 0
        mask = torch.cat([torch.ones(8, 7, dtype=torch.bool), place <= lengths], dim=1)
        prompt = {"input_ids": prompts, "attention_mask": torch.ones(8, 7, dtype=torch.bool)}
        batches.append((prompt, torch.cat([prompts, responses], dim=1), mask))
    return batches


def follow(trainer, side, batches):
    """Let a trainer roll out the script."""
    turn = iter(batches)
    trainer.prompt_only_dataloader = [prompt for prompt, _, _ in batches]
    if side == "port":
        trainer.generate = lambda prompts: next(turn)[1:]
    else:
        trainer.actor_model.module.generate = lambda **kwargs: next(turn)[1]


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--preference_scope", "sample"),
        ("--aggregation", "tche"),
        ("--actor_gradient_checkpointing", "--critic_gradient_checkpointing"),
    ],
)
def test_ppo(files, tmp_path, extra):
    trainers = two("ppo", files, tmp_path, ("--reward_scales", "harmless=5", *extra))
    assert same_start(trainers)
    # The port's score model draws a head that the checkpoint then replaces, so that the critics'
    # adapters, made after it, start at other places of the same stream.
    ours, theirs = (trainer.reward_critic_model.module.adapter for trainer in trainers)
    theirs.load_state_dict(ours.state_dict())
    batches = script(files)
    ptx = list(trainers[0].ptx_dataloader)
    watched = [watch(trainer) for trainer in trainers]
    for side, trainer in zip(SIDES, trainers, strict=True):
        follow(trainer, side, batches)
        trainer.ptx_dataloader = ptx
        trainer.ptx_sampler = getattr(trainer, "data_sampler", None)
        trainer.train()
    logs, drawn = zip(*watched, strict=True)
    assert len(drawn[0]) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    agree(
        logs,
        (
            *("actor_loss", "reward_critic_loss", "reward", "reward_value", "kl_divergence"),
            *("reward_helpful", "reward_harmless", "ptx_loss", "reward_advantage"),
        ),
    )


@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_backbones_held(algorithm, files, tmp_path):
    """1 for DPO, 1 + m for PPO, where Safe-RLHF itself loads 2 and 4 (3 + m for m rewards)."""
    (tmp_path / "out").mkdir()
    loaded = []
    from safe_rlhf.models import pretrained

    patch = pytest.MonkeyPatch()
    for auto in (pretrained.AutoModelForCausalLM, pretrained.AutoModelForScore):
        original = auto.from_pretrained
        patch.setattr(
            auto,
            "from_pretrained",
            lambda *args, _original=original, **kwargs: (
                loaded.append(args[0]) or _original(*args, **kwargs)
            ),
        )
    trainer = make(
        panacea_class(algorithm, "safe_rlhf"), algorithm, "safe_rlhf", files, tmp_path / "out"
    )
    patch.undo()
    assert len(loaded) == (1 if algorithm == "dpo" else 3)
    if algorithm == "dpo":
        assert trainer.reference_model is None


def test_the_adapter_is_saved_and_read_back(files, tmp_path):
    from safe_rlhf_panacea.respond import PanaceaModel

    trainer = make(panacea_class("dpo", "safe_rlhf"), "dpo", "safe_rlhf", files, tmp_path)
    trainer.train()
    trainer.save()
    model = PanaceaModel.load(str(tmp_path))
    saved = model.adapter.state_dict()
    assert all(torch.equal(saved[k], v) for k, v in trainer.adapter.state_dict().items())
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("environ.txt"))


@pytest.mark.parametrize(("algorithm", "side"), [("dpo", s) for s in SIDES] + [("ppo", SIDES[1])])
def test_a_step_that_is_not_finite_ends_the_run(files, tmp_path, algorithm, side):
    extra = ["--lr", "1e30"] if algorithm == "dpo" else ["--critic_lr", "1e30"]
    trainer = make(panacea_class(algorithm, side), algorithm, side, files, tmp_path / side, extra)
    with pytest.raises(DivergedError, match=r"^step \d+ \(λ helpful=.*is (nan|inf)"):
        trainer.train()
