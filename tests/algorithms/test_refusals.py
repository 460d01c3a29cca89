"""What the programs must not take for something else, each refused in one line."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.io import save_adapter
from safe_rlhf_panacea.algorithms.ppo.main import main as ppo
from safe_rlhf_panacea.evaluation.calibrate import main as calibrate
from safe_rlhf_panacea.evaluation.main import main as evaluate


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
def commands(ppo_flags, base_model, adapter, prompts, tmp_path):
    """A program and its flags, by name; each scores responses."""
    data = ("--datasets", f"prompts:2/-1:{prompts}", "--max_length", "32", "--progress", "false")
    out = tmp_path / "out"
    return {
        "ppo": (ppo, *ppo_flags),
        "calibrate": (calibrate, "--model_name_or_path", base_model, "--output_file", out, *data),
        "evaluate": (evaluate, "--adapter", adapter, "--output_dir", out, *data),
    }


@pytest.mark.parametrize("program", ["ppo", "calibrate", "evaluate"])
def test_a_language_model_is_no_reward_model(program, commands, base_model, reward_models, refused):
    models = (f"helpful={reward_models['helpful']}", f"harmless={base_model}")
    line = refused(*commands[program], "--reward_models", *models)
    assert f"{base_model} is no reward model: its weights lack score_head.weight" in line
