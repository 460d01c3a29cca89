"""Twenty steps of every algorithm on a real chat model, in the folder of PANACEA_SMALL_MODEL."""

from __future__ import annotations

import json
import os

import pytest
import torch

from safe_rlhf_panacea.algorithms.dpo.trainer import rows_of_pairs
from safe_rlhf_panacea.base.engine import unwrap
from tests.algorithms.helpers import dpo_trainer, grpo_trainer, ppo_trainer, sft_trainer

FOLDER = os.environ.get("PANACEA_SMALL_MODEL")
pytestmark = [
    pytest.mark.small_model,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not FOLDER, reason="PANACEA_SMALL_MODEL is not set"),
]
STEPS = 20
TOPICS = ("rain", "the dentist", "old cars", "choirs", "maps", "winter", "bread", "queues")
RULES = "safe_rlhf_panacea.reward_functions"
COMMON = [
    *("--chat_template", "auto", "--max_length", "64", "--max_steps", str(STEPS)),
    *("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1"),
    *("--preference_scope", "sample", "--lora_dim", "8", "--log_type", "none"),
    *("--progress", "false"),
]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Pairs, of which each objective labels its own."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"What do you think about {topic}?",
            "response_0": f"I like {topic} a lot, and there is much that I could tell you.",
            "response_1": f"Little. {topic.capitalize()} bore me.",
            "better_positive": 0,
            "better_concise": 1,
        }
        for topic in TOPICS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def supervised_flags(lines, tmp_path, names):
    data = [f"{name}pairs:1:{lines}" for name in names]
    objectives = ["--objectives", "positive", "concise"]
    model = ["--model_name_or_path", FOLDER, "--output_dir", str(tmp_path / "run")]
    return [*COMMON, *model, *objectives, "--lr", "1e-3", "--train_datasets", *data]


def rewarded_flags(lines, tmp_path, *more):
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    prompts = tmp_path / "prompts.jsonl"
    texts = (json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows)
    prompts.write_text("".join(texts), encoding="utf-8")
    rules = [f"positive={RULES}:positive"]
    rules.append(f"concise={RULES}:concise?max_length=8,min_length=8,min_reward=-3")
    model = ["--actor_model_name_or_path", FOLDER, "--output_dir", str(tmp_path / "run")]
    data = ["--train_datasets", f"prompts:1:{prompts}", "--actor_lr", "1e-3"]
    return [*COMMON, *model, "--reward_models", *rules, *data, *more]


def noted_passes(module, adapter):
    """λ of every forward pass that the adapter takes part in."""
    passes = []

    def note(*_):
        if adapter.state.enabled:
            passes.append(adapter.preference.detach().clone())

    module.register_forward_pre_hook(note)
    return passes


def check_learnt(trainer, drawn):
    assert len(drawn) == trainer.global_step == STEPS
    assert len({tuple(preference[0].tolist()) for preference in drawn}) == STEPS
    for adapter in trainer.panacea.adapters.values():
        scales = torch.stack([p for p in adapter.parameters() if p.numel() == 1])
        assert scales.isfinite().all()
        assert scales.abs().max() > 0


def same_rows(passes, preference):
    """Whether the passes over a batch together have each row's λ once, in whatever order."""
    found = torch.cat(passes)
    return sorted(found.tolist()) == sorted(preference.tolist())


@pytest.mark.parametrize("algorithm", ["dpo", "sft"])
def test_supervised(algorithm, lines, tmp_path):
    if algorithm == "dpo":
        trainer = dpo_trainer(supervised_flags(lines, tmp_path, [""]))
    else:
        trainer = sft_trainer(supervised_flags(lines, tmp_path, ["positive=", "concise="]))
    drawn, begins, draw = [], [], trainer.panacea.draw
    passes = noted_passes(unwrap(trainer.model), trainer.panacea.policy)

    def noted(*args, **kwargs):
        begins.append(len(passes))
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    trainer.panacea.draw = noted
    trainer.train()
    check_learnt(trainer, drawn)
    for begin, end, preference in zip(begins, [*begins[1:], len(passes)], drawn, strict=True):
        rows = rows_of_pairs(preference) if algorithm == "dpo" else slice(None)
        assert same_rows(passes[begin:end], preference[rows])


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_rewarded(algorithm, lines, tmp_path):
    flags = rewarded_flags(lines, tmp_path, "--per_device_prompt_batch_size", "2")
    make = ppo_trainer
    if algorithm == "grpo":
        make = grpo_trainer
        flags += ["--num_return_sequences", "2", "--per_device_train_batch_size", "4"]
    trainer = make(flags)
    panacea, rewards, scored, drawn, learnt = trainer.panacea, trainer.rewards, [], [], []
    passes = noted_passes(unwrap(trainer.actor_model), panacea.policy)
    critic = []
    if algorithm == "ppo":
        critic = noted_passes(unwrap(trainer.reward_critic_model), panacea.adapters["critic"])
        backbone = {id(p) for p in unwrap(trainer.actor_model).parameters()}
        frozen = [p for p in unwrap(trainer.reward_critic_model).parameters() if p.dim() > 1]
        assert sum(id(p) in backbone for p in frozen) > 200  # one backbone in all

    def score(responses):
        scored.append(panacea.preference.clone())
        return rewards(responses)

    def rl_step(batch, step=trainer.rl_step):
        drawn.append(batch["preference"].clone())
        before = len(passes), len(critic)
        info = step(batch)
        learnt.append((before, (len(passes), len(critic))))
        return info

    score.raw = rewards.raw
    trainer.rewards, trainer.rl_step = score, rl_step
    trainer.train()
    check_learnt(trainer, drawn)
    begin = 0
    for preference, seen, (update, end) in zip(drawn, scored, learnt, strict=True):
        assert torch.equal(seen, preference)
        assert update[0] > begin  # there was a rollout
        rows = {tuple(row) for row in preference.tolist()}
        for held in passes[begin : update[0]]:
            assert {tuple(row) for row in held.tolist()} <= rows
        assert same_rows(passes[update[0] : end[0]], preference)
        if algorithm == "ppo":
            assert same_rows(critic[update[1] : end[1]], preference)
        begin = end[0]
