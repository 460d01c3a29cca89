"""The hooks: their order, what they are given and what they give."""

from __future__ import annotations

import pytest

from tests.contract.sides import both_sides, make, needs_safe_rlhf, panacea_class, plain_class

INIT = ["init_models", "init_datasets", "init_engines", "init_logger"]
HOOKS = {
    "dpo": [*INIT, "train_step", "loss", "save"],
    "ppo": [*INIT, "rollout", "post_rollout", "rl_step", "ptx_step", "eval_step", "save"],
}
STEP = {"dpo": ["train_step", "loss"], "ppo": ["rollout", "post_rollout", "rl_step", "ptx_step"]}


def recorded(trainer_class, hooks):
    """A subclass, as a user writes one, that notes down when its hooks are called."""
    calls = []

    def hook(name):
        def method(self, *args, **kwargs):
            calls.append(name)
            return getattr(trainer_class, name)(self, *args, **kwargs)

        return method

    subclass = type("Recorded", (trainer_class,), {name: hook(name) for name in hooks})
    return subclass, calls


@both_sides
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
@pytest.mark.parametrize("which", [plain_class, panacea_class])
def test_hooks_are_called_in_their_order(which, algorithm, side, files, tmp_path):
    subclass, calls = recorded(which(algorithm, side), HOOKS[algorithm])
    trainer = make(subclass, algorithm, side, files, tmp_path)
    assert calls == INIT
    calls.clear()
    trainer.train()
    assert calls == STEP[algorithm] * 10
    assert trainer.global_step == 10


@both_sides
def test_the_rolled_out_batch(side, files, tmp_path):
    extra = ("--update_iters", "2")  # the port leaves out what one update does not need
    trainer = make(plain_class("ppo", side), "ppo", side, files, tmp_path, extra)
    prompts = next(iter(trainer.prompt_only_dataloader))
    trainer.set_eval()
    (batch,) = trainer.split_rl_micro_batches(prompts)
    length = batch["input_ids"].size(1)
    expected = {
        "prompt": prompts["input_ids"].shape,
        "log_probs": (8, length - 1),
        "ref_log_probs": (8, length - 1),
        "reward": (8,),
        "reward_values": (8, length - 1),
        "input_ids": (8, length),
        "attention_mask": (8, length),
    }
    assert {name: tuple(batch[name].shape) for name in batch} == {
        name: tuple(shape) for name, shape in expected.items()
    }
    trainer.set_train()
    assert isinstance(trainer.rl_step(batch)["train/reward"], float)


@needs_safe_rlhf
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_panacea_is_a_subclass_of_safe_rlhfs_own(algorithm):
    from importlib import import_module

    from safe_rlhf_panacea.on_safe_rlhf.record import Recorded

    theirs = import_module(f"safe_rlhf.algorithms.{algorithm}.trainer")
    base = getattr(theirs, f"{algorithm.upper()}Trainer")
    panacea = panacea_class(algorithm, "safe_rlhf")
    assert issubclass(panacea, base)
    assert plain_class(algorithm, "safe_rlhf") is base
    # Their own code runs; after the loop the trainer's part shows the last evaluation.
    assert super(Recorded, panacea).train is base.train
    inherited = ["set_train"]
    if algorithm == "ppo":
        inherited += ["split_rl_micro_batches", "get_advantages_and_returns", "critic_loss_fn"]
    for name in inherited:
        assert getattr(panacea, name) is getattr(base, name), name


@needs_safe_rlhf
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_the_one_logger_keeps_no_trainer(algorithm, files, tmp_path):
    trainer = make(panacea_class(algorithm, "safe_rlhf"), algorithm, "safe_rlhf", files, tmp_path)
    assert "log" not in vars(trainer.logger)
    trainer.train()
    assert "log" not in vars(trainer.logger)
