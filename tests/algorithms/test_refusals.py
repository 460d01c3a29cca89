"""What the programs must not take for something else, each refused in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.io import save_adapter
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.evaluation.calibrate import main as calibrate
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.respond import main as respond


@pytest.fixture(scope="session")
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
        with pytest.raises(SystemExit) as stop:
            main([str(flag) for flag in flags])
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert stop.value.code == 2
        assert len(lines) == 1 and lines[0].startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


@pytest.fixture
def commands(dpo_flags, ppo_flags, base_model, adapter, prompts, tmp_path):
    """A program and its flags, by name; each scores responses."""
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
