"""A trainer that brings no critic: the loop trains, paces and keeps what its roles name."""

from __future__ import annotations

import torch

from safe_rlhf_panacea.algorithms.ppo import COMMAND
from safe_rlhf_panacea.algorithms.preference_source import begins_update
from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.base.losses import next_token_loss
from safe_rlhf_panacea.base.rl import RLTrainer
from safe_rlhf_panacea.base.setup import prepare_run
from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.forward import answer_log_probs, log_probs, response_tokens


class Reinforce(RLTrainer):
    """Longer responses are better."""

    paces: list

    def init_actor(self):
        self.actor_model, self.tokenizer = load_pretrained_models(
            self.args.actor_model_name_or_path, model_max_length=32, padding_side="left"
        )
        self.paces = []

    def init_reference(self):
        pass

    init_rewards = init_reference

    def post_rollout(self, prompt, sequence, attention_mask):
        self.paces.append((begins_update(self.actor_model, self.waiting), self.on_policy))
        reward = attention_mask[:, prompt.size(1) :].float().sum(dim=-1)
        return {
            "prompt": prompt,
            "input_ids": sequence,
            "attention_mask": attention_mask,
            "reward": reward,
        }

    def rl_step(self, rl_batch):
        self.waiting = 0
        ids, mask = rl_batch["input_ids"], rl_batch["attention_mask"]
        start = rl_batch["prompt"].size(1) - 1
        of_tokens = log_probs(self.actor_model, ids, mask, response_tokens(mask, start))
        loss = -(rl_batch["reward"] * (of_tokens * mask[:, 1:]).sum(dim=-1)).mean()
        self.actor_model.backward(loss)
        self.actor_model.step()
        return {"train/reward": rl_batch["reward"].mean().item()}

    def ptx_step(self, ptx_batch):
        text = (ptx_batch[key] for key in ("input_ids", "labels", "attention_mask"))
        self.actor_model.backward(next_token_loss(*answer_log_probs(self.actor_model, *text)))
        self.actor_model.step()
        return {}

    def eval_rollout(self, prompt, sequence, attention_mask):
        return {"eval/reward": attention_mask.float().sum(dim=-1)}


def reinforce(flags):
    """The trainer, from PPO's flags without the critic's."""
    args = RewardedConfig.of(COMMAND.given(flags))
    return Reinforce(args, *prepare_run(args))


def test_it_trains_paces_and_keeps_its_checkpoint(ppo_flags, prompts, tmp_path):
    flags = [
        *ppo_flags,
        *("--max_steps", "4", "--per_device_prompt_batch_size", "16"),
        *("--gradient_accumulation_steps", "2", "--save_interval", "4"),
        *("--need_eval", "--eval_datasets", f"prompts:8/-1:{prompts}"),
    ]
    trainer = reinforce(flags)
    before = [p.detach().clone() for p in trainer.actor_model.module.parameters()]
    trainer.train()
    after = list(trainer.actor_model.module.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.actor_model.global_steps == 2
    assert trainer.paces == [(True, True), (False, True)] * 2
    saved = tmp_path / "out" / "checkpoints"
    assert {path.name for path in saved.iterdir() if path.is_dir()} == {"actor"}

    resumed = reinforce([*flags, "--resume"])
    assert resumed.global_step == 4
    weights = zip(after, resumed.actor_model.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_supervised_text_leaves_the_pace_alone(ppo_flags, texts):
    """Twice the backward passes, as many updates and as many rollouts for each."""
    sizes = ["--per_device_prompt_batch_size", "24", "--gradient_accumulation_steps", "2"]
    paces = []
    for ptx in ([], ["--ptx_datasets", f"supervised:1:{texts}"]):
        trainer = reinforce([*ppo_flags, *sizes, *ptx, "--max_steps", "6", "--overwrite"])
        trainer.train()
        assert trainer.actor_model.global_steps == 3
        paces.append(trainer.paces)
    first = [(True, True), (False, True), (True, False)]  # an update comes in between
    assert paces[0] == paces[1] == [*first, (False, True), (True, False), (False, False)]
