"""Bad input gets one clear line and exit code 2, and nothing is written.

What is refused before a model is loaded stands in ``tests/bad_command_lines.py``.
"""

from __future__ import annotations

import shutil
import sys
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.io import save_adapter
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.base import AutoModelForScore
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.evaluation.calibrate import main as calibrate
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.respond import main as respond
from tests.algorithms.conftest import write_lines

HEAD = "score_head.weight"


@pytest.fixture(scope="module")
def adapter(base_model, tmp_path_factory):
    """An adapter that was never trained."""
    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    config = AdapterConfig(objectives=("helpful", "harmless"), base_model=str(base_model))
    save_adapter(inject_adapter(model, config), folder)
    return folder


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a program, expect one line on stderr and nothing written; return the line."""

    def run(main, *flags):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(flag) for flag in flags])
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert stop.value.code == 2
        assert len(lines) == 1 and lines[0].startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--fixed_preference", "helpful=0.5,kind=0.5"], "unknown objective 'kind'"),
        (["--lora_module_name", "blocks."], "'blocks.' matches no linear layer"),
        (["--offload", "optimizer"], "needs --zero_stage 2 or 3"),
        (["--model_name_or_path", "no/such/model"], "no/such/model"),
        (["--train_datasets", "pears:1:x.jsonl"], "pears"),
        (["--train_datasets", "pairs:1:no-such-file.jsonl"], "no-such-file.jsonl"),
        (["--objectives", "helpful", "funny"], "funny"),
        (["--log_dir", __file__], "is no folder that can be written to"),
    ],
)
def test_flags_of_dpo(dpo_flags, refused, extra, words):
    assert words in refused(dpo, *dpo_flags, *extra)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--objectives", "helpful"], "'harmless', which is not among --objectives"),
        (["--max_length", "4"], "max_length"),
        (["--per_device_train_batch_size", "3"], "no multiple of"),
    ],
)
def test_flags_of_ppo(ppo_flags, refused, extra, words):
    assert words in refused(ppo, *ppo_flags, *extra)


GOOD = {"prompt": "cde", "response_0": "aa", "response_1": "bb", "better_helpful": 0}


@pytest.mark.parametrize("change", [{"prompt": " "}, {"response_1": ""}, {"better_helpful": 2}])
def test_data_are_named_with_file_and_line(dpo_flags, refused, tmp_path, change):
    path = write_lines(tmp_path / "bad.jsonl", [GOOD | {"better_harmless": 1}, GOOD | change])
    assert "bad.jsonl:2" in refused(dpo, *dpo_flags, "--train_datasets", f"pairs:1:{path}")


def test_logs_that_cannot_be_made(dpo_flags, refused, monkeypatch):
    """The folder stays free for the corrected command."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refused(dpo, *dpo_flags, "--log_type", "tensorboard")
    assert "needs the package tensorboard" in line

    def fail(**_):
        raise UserError("no space for logs")

    monkeypatch.setattr("safe_rlhf_panacea.base.trainer.Logger", fail)
    assert "no space for logs" in refused(dpo, *dpo_flags)


def test_weights_that_are_not_finite(base_model, reward_models, dpo_flags, refused, tmp_path):
    for number, (source, name) in enumerate(
        [(base_model, "model.layers.0.mlp.up_proj.weight"), (reward_models["helpful"], HEAD)]
    ):
        broken = tmp_path / f"broken{number}"
        shutil.copytree(source, broken)
        tensors = load_file(broken / "model.safetensors")
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    line = refused(dpo, *dpo_flags, "--model_name_or_path", str(tmp_path / "broken0"))
    assert "broken0: tensor model.layers.0.mlp.up_proj.weight is not finite" in line
    with pytest.raises(UserError, match=f"broken1: tensor {HEAD} is not finite"):
        AutoModelForScore.from_pretrained(str(tmp_path / "broken1"))


def row_counter(responses):
    return [0.0] * (len(responses) + 1)


def divider(response_lengths, answer):
    return [length / 0 for length in response_lengths.tolist()]


RULES = "safe_rlhf_panacea.reward_functions"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:score", "no_such_module cannot be imported"),
        (f"{RULES}:brief", "has no function brief"),
        (f"{RULES}:concise?limit=3", "it takes no limit; it takes resp"),
        (f"{RULES}:concise?max_length=x", "not of the form name=number"),
        (f"{RULES}:concise?max_length=0", "max_length 0 must be positive"),
        (f"{__name__}:row_counter", "returned shape (9,) for 8 responses"),
        (f"{__name__}:divider", "prompts.jsonl (prompt 1 has: input), and no option gives it"),
    ],
)
def test_a_reward_function_that_does_not_fit(ppo_flags, rule_rewards, refused, path, words):
    line = refused(ppo, *ppo_flags, "--reward_models", rule_rewards[0], f"harmless={path}")
    assert words in line


def test_a_critic_on_the_policys_backbone_under_zero_3(ppo_flags, rule_rewards, refused):
    line = refused(ppo, *ppo_flags, "--reward_models", *rule_rewards, "--zero_stage", "3")
    assert "--zero_stage 3 shards weights engine by engine, and the critic would share" in line


@pytest.fixture
def commands(dpo_flags, ppo_flags, base_model, adapter, prompts, tmp_path):
    """A program and its flags, by name."""
    data = ("--datasets", f"prompts:2/-1:{prompts}", "--max_length", "32", "--progress", "false")
    out = tmp_path / "out"
    return {
        "dpo": (dpo, *dpo_flags),
        "ppo": (ppo, *ppo_flags),
        "calibrate": (calibrate, "--model_name_or_path", base_model, "--output_file", out, *data),
        "evaluate": (evaluate, "--adapter", adapter, "--output_dir", out, *data),
    }


@pytest.mark.parametrize("program", ["ppo", "calibrate", "evaluate"])
def test_a_language_model_is_no_reward_model(program, commands, base_model, reward_models, refused):
    models = (f"helpful={reward_models['helpful']}", f"harmless={base_model}")
    line = refused(*commands[program], "--reward_models", *models)
    assert f"{base_model} is no reward model: its weights lack score_head.weight" in line


@pytest.mark.parametrize("program", ["dpo", "ppo", "calibrate", "evaluate"])
def test_sequences_longer_than_the_models_positions(program, commands, reward_models, refused):
    models = [f"{name}={folder}" for name, folder in reward_models.items()]
    flags = [] if program == "dpo" else ["--reward_models", *models]
    line = refused(*commands[program], *flags, "--max_length", "513")
    assert "--max_length makes 513 tokens, and " in line
    assert "has 512 positions (max_position_embeddings)" in line


def test_a_prompt_that_leaves_no_room_for_the_answer(adapter, refused, capsys):
    """The template's tokens and five letters: up to 512 with the answer, and no further."""
    flags = ("--adapter", adapter, "--preference", "1,0", "cdefg", "--max_new_tokens")
    line = refused(respond, *flags, 512)
    size = int(line.split("a prompt of ")[1].split()[0])
    assert f"makes {size + 512} tokens, and the model has 512 positions" in line
    refused(respond, *flags, 513 - size)
    respond([str(flag) for flag in (*flags, 4)])
    assert capsys.readouterr().out.startswith("[helpful=1")


def test_positions_that_a_model_does_not_name():
    """Those without any, with none to speak of, and with as many as are needed pass."""
    for options in ({}, {"max_position_embeddings": None}, {"max_position_embeddings": 7}):
        config = SimpleNamespace(**options)
        config.get_text_config = lambda config=config: config
        check_positions(SimpleNamespace(config=config), 7, "m")
    with pytest.raises(UserError, match="makes 8 tokens, and m has 7 positions"):
        check_positions(SimpleNamespace(config=config), 8, "m")


def test_an_answer_cannot_steer_the_terminal(adapter, monkeypatch, capsys):
    monkeypatch.setattr(PanaceaModel, "respond", lambda *_, **__: "a\x1b[2J\n\tb\u202e")
    respond(["--adapter", str(adapter), "--preference", "1,0", "cde"])
    assert capsys.readouterr().out.endswith("]\na\\u001b[2J\n\tb\\u202e\n\n")


@pytest.mark.parametrize(
    ("preference", "words"), [("0.5,0.6", "sums to 1.1"), ("helpful=1", "says nothing of harmless")]
)
def test_preferences_off_the_simplex(adapter, refused, preference, words):
    assert words in refused(respond, "--adapter", adapter, "--preference", preference, "cde")


def test_adapters_that_cannot_be_loaded(adapter, base_model, refused, tmp_path):
    flags = ("--preference", "1,0", "cde", "--adapter")
    assert "adapter_config.json" in refused(respond, *flags, tmp_path / "none")
    copy = shutil.copytree(adapter, tmp_path / "copy")
    assert f"{base_model.name}: no such folder" in refused(respond, *flags, copy)
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "truncated" in refused(respond, *flags, copy, "--base_model", base_model)
