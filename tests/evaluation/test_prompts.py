"""Which rows an evaluation measures."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.configs.rewarded import MeasureOptions
from safe_rlhf_panacea.data import ChatTemplate, PromptOnlyDataset
from safe_rlhf_panacea.evaluation import __main__ as program
from safe_rlhf_panacea.evaluation.loading import read_prompts
from safe_rlhf_panacea.fronts.measure import different_prompts
from tests.export.models import saved
from tests.tiny import tiny_tokenizer


def test_rows_of_one_prompt_and_other_columns_are_all_measured(tmp_path):
    """By the program, and in training."""
    path = tmp_path / "data.jsonl"
    references = ["0", "1", "0", "2"]
    rows = [{"prompt": "solve it", "reference": reference} for reference in references]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    template = ChatTemplate.of("safe-rlhf", tiny_tokenizer())
    specs = [f"prompts:1:{path}"]
    read = read_prompts(MeasureOptions(datasets=specs, seed=0, max_length=64), template)
    assert [prompt.example["reference"] for prompt in read] == ["0", "1", "2"]
    data = PromptOnlyDataset(specs, template.tokenizer, template=template)
    found = ((data[i]["input_ids"], data[i]["example"]) for i in range(len(data)))
    prompts = different_prompts(template, found, 2)
    assert [prompt.example["reference"] for prompt in prompts] == ["0", "1"]
    assert {prompt.text for prompt in prompts} == {"solve it"}


def lengths(responses):
    return [*map(len, responses)]


@pytest.mark.parametrize("lacking", [False, True])
def test_families_of_prompts_are_read_before_anything_is_sampled(
    lacking, tmp_path, monkeypatch, capsys
):
    rows = [{"prompt": "a", "topic": "x"}, {"prompt": "b", "topic": 7}, {"prompt": "c"}]
    path = tmp_path / "data.jsonl"
    kept = rows if lacking else rows[:2]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    sampled = []
    whole = program.sample_base
    monkeypatch.setattr(program, "sample_base", lambda *args: sampled.append(0) or whole(*args))
    _, adapter = saved("llama", tmp_path)
    command = (
        f"--adapter {adapter} --datasets prompts:1:{path} --output_dir "
        f"{tmp_path / 'out'} --cluster_column topic --max_length 40 --grid_step 1 --progress false "
        f"--reward_models helpful={__name__}:lengths harmless={__name__}:lengths "
        "--reward_signs harmless=-1"
    )
    if not lacking:
        program.main(command.split())
        values = json.loads((tmp_path / "out" / "values.json").read_text(encoding="utf-8"))
        assert values["clusters"] == ["x", "7"] and sampled
        return
    with pytest.raises(SystemExit):
        program.main(command.split())
    assert "--cluster_column topic: the row of 'c' lacks it" in capsys.readouterr().err
    assert not sampled
