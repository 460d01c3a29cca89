"""Which rows an evaluation measures."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from safe_rlhf_panacea.base.datasets import ChatTemplate, PromptOnlyDataset
from safe_rlhf_panacea.evaluation.arguments import read_prompts
from safe_rlhf_panacea.fronts.measure import different_prompts
from tests.tiny import tiny_tokenizer


def test_rows_of_one_prompt_and_other_columns_are_all_measured(tmp_path: Path) -> None:
    """By the program, and in training."""
    path = tmp_path / "data.jsonl"
    references = ["0", "1", "0", "2"]
    rows = [{"prompt": "solve it", "reference": reference} for reference in references]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    template = ChatTemplate.of("safe-rlhf", tiny_tokenizer())
    specs = [f"prompts:1:{path}"]
    read = read_prompts(Namespace(datasets=specs, seed=0, max_length=64), template)
    assert [prompt.example["reference"] for prompt in read] == ["0", "1", "2"]
    data = PromptOnlyDataset(specs, template.tokenizer, template=template)
    found = ((data[i]["input_ids"], data[i]["example"]) for i in range(len(data)))
    prompts = different_prompts(template, found, 2)
    assert [prompt.example["reference"] for prompt in prompts] == ["0", "1"]
    assert {prompt.text for prompt in prompts} == {"solve it"}
