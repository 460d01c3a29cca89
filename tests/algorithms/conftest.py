"""A tiny model, its reward models and conflicting data, on disk as the command lines want them."""

from __future__ import annotations

import json
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.base import AutoModelForScore, load_pretrained_models
from tests.algorithms import plain_ppo
from tests.tiny import tiny_llama, tiny_tokenizer

EVERY_STEP = ("--need_eval", "--eval_strategy", "steps", "--eval_interval", "1")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def base_model(tmp_path_factory):
    """A random Llama with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    model = tiny_llama(vocab=len(tokenizer), width=32, layers=2, seed=0)
    with torch.no_grad():
        model.lm_head.weight *= 15  # a head this small would keep every policy near uniform
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reward_models(base_model, tmp_path_factory):
    """Two random reward models on the same tokens."""
    folders = {}
    for seed, name in enumerate(("helpful", "harmless")):
        torch.manual_seed(seed)
        model, tokenizer = load_pretrained_models(
            str(base_model),
            model_max_length=64,
            padding_side="right",
            auto_model_type=AutoModelForScore,
            auto_model_kwargs={"score_type": "reward", "fresh_head": True},
        )
        folders[name] = tmp_path_factory.mktemp(f"reward-{name}")
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Pairs of an answer in a's and one in b's: helpful wants the a's, harmless the b's."""
    generator = random.Random(0)
    rows = []
    for _ in range(64):
        prompt = "".join(generator.choices("cdefg", k=4))
        answers = ["a" * generator.randint(3, 6), "b" * generator.randint(3, 6)]
        first = generator.randint(0, 1)
        rows.append(
            {
                "prompt": prompt,
                "response_0": answers[first],
                "response_1": answers[1 - first],
                "better_helpful": first,
                "better_harmless": 1 - first,
            }
        )
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    """Short prompts."""
    generator = random.Random(1)
    rows = [{"prompt": "".join(generator.choices("cdefg", k=3))} for _ in range(64)]
    return write_lines(tmp_path_factory.mktemp("data") / "prompts.jsonl", rows)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Prompts with answers."""
    generator = random.Random(2)
    rows = [
        {"prompt": "".join(generator.choices("cdefg", k=3)), "response": "ab" * 3}
        for _ in range(32)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


@pytest.fixture(scope="session")
def rule_rewards():
    """Two rewards that need no model, and conflict: short answers, and answers with an a."""
    rules = "safe_rlhf_panacea.reward_functions"
    return [
        f"helpful={rules}:matches?pattern=a",
        f"harmless={rules}:concise?max_length=4,min_length=1",
    ]


@pytest.fixture(scope="session")
def objective_texts(tmp_path_factory):
    """Answers in a's for helpful, in b's for harmless, of different lengths."""
    generator, folder = random.Random(3), tmp_path_factory.mktemp("data")
    files = {}
    for name, letter, count in (("helpful", "a", 24), ("harmless", "b", 16)):
        rows = [
            {
                "prompt": "".join(generator.choices("cdefg", k=generator.randint(2, 5))),
                "response": letter * generator.randint(2, 6),
            }
            for _ in range(count)
        ]
        files[name] = write_lines(folder / f"{name}.jsonl", rows)
    return files


@pytest.fixture
def sft_flags(base_model, objective_texts, tmp_path):
    """A short run of Panacea-SFT."""
    specs = [f"{name}=supervised:1:{path}" for name, path in objective_texts.items()]
    return [
        *("--model_name_or_path", str(base_model), "--train_datasets", *specs),
        *("--output_dir", str(tmp_path / "out"), "--max_length", "64", "--max_steps", "2"),
        *("--per_device_train_batch_size", "8", "--lr", "5e-3"),
        *("--log_type", "none", "--progress", "false"),
    ]


@pytest.fixture
def ragged_prompts(tmp_path):
    """Prompts of different lengths, so that rows are padded."""
    lengths = random.Random(4)
    rows = [{"prompt": "".join(lengths.choices("cdefg", k=1 + i % 5))} for i in range(16)]
    return write_lines(tmp_path / "ragged.jsonl", rows)


@pytest.fixture
def weights(base_model, reward_models):
    """The files' own tensors in float64."""
    files = [folder / "model.safetensors" for folder in (base_model, *reward_models.values())]
    base, *models = [plain_ppo.doubled(load_file(file)) for file in files]
    return SimpleNamespace(base=base, critic=models[0], score=partial(plain_ppo.rewards, models))


def dpo_command(base_model, pairs, folder):
    """A short run of Panacea-DPO, into a folder."""
    return [
        *("--model_name_or_path", str(base_model), "--objectives", "helpful", "harmless"),
        *("--train_datasets", f"pairs:1:{pairs}", "--output_dir", str(folder)),
        *("--max_length", "64", "--max_steps", "2", "--per_device_train_batch_size", "8"),
        *("--log_type", "none", "--progress", "false", "--lr", "5e-3"),
    ]


@pytest.fixture
def dpo_flags(base_model, pairs, tmp_path):
    return dpo_command(base_model, pairs, tmp_path / "out")


@pytest.fixture(scope="session")
def trained(base_model, pairs, tmp_path_factory):
    """What four steps of Panacea-DPO left, with checkpoints; only for reading."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    flags = dpo_command(base_model, pairs, folder)
    dpo([*flags, "--lr", "0.05", "--max_steps", "4", "--save_interval", "2"])
    return folder


@pytest.fixture
def ppo_flags(base_model, reward_models, prompts, tmp_path):
    """A short run of Panacea-PPO."""
    return [
        *("--actor_model_name_or_path", str(base_model)),
        *("--reward_models", *(f"{name}={path}" for name, path in reward_models.items())),
        *("--train_datasets", f"prompts:1:{prompts}", "--output_dir", str(tmp_path / "out")),
        *("--max_length", "32", "--max_steps", "2", "--per_device_train_batch_size", "8"),
        *("--per_device_prompt_batch_size", "8", "--gradient_accumulation_steps", "1"),
        *("--log_type", "none", "--progress", "false", "--actor_lr", "5e-3"),
    ]


@pytest.fixture
def grpo_flags(ppo_flags):
    """A short run of Panacea-GRPO: four groups of four in a micro-batch, one to a rollout."""
    return [
        *ppo_flags,
        *("--num_return_sequences", "4", "--per_device_prompt_batch_size", "4"),
        *("--per_device_train_batch_size", "16"),
    ]


def evaluated(flags, data):
    """Flags with an evaluation at every step; the later ``--log_type`` counts."""
    return [*flags, *EVERY_STEP, "--eval_datasets", data, "--per_device_eval_batch_size", "8"]


@pytest.fixture
def ppo_evaluated(ppo_flags, prompts):
    return [*evaluated(ppo_flags, f"prompts:16/-1:{prompts}"), "--eval_prompts", "6"]


@pytest.fixture
def dpo_evaluated(dpo_flags, pairs):
    return evaluated(dpo_flags, f"pairs:12/-1:{pairs}")
