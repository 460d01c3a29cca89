"""What the pages tell a newcomer to run, run: with a tiny model, and one epoch."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from safe_rlhf_panacea import command
from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from tests.docs.pages import ROOT, blocks, commands
from tests.tiny import tiny_llama, tiny_tokenizer

PAGE = ROOT / "docs" / "getting_started.md"
USING = ROOT / "docs" / "using.md"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What a model of one token per character and a test's time want; nothing else is changed.
CHANGED = {"--max_length": "400", "--epochs": "1", "--max_new_tokens": "4"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the page's data file, and the model beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["panacea"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer(model_max_length=512).save_pretrained(tmp_path / "model")
    for block in blocks(PAGE):
        if block.title == "pairs.jsonl":
            (tmp_path / block.title).write_text(block.text + "\n")
    return tmp_path


def adapted(words):
    """A command of the page for the tiny model."""
    words = ["model" if word == MODEL else word for word in words]
    for flag, value in CHANGED.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    return words


def test_an_adapter_in_a_model_of_ones_own(here):
    (here / "path" / "to").mkdir(parents=True)
    (here / "model").rename(here / "path" / "to" / "base")
    config = AdapterConfig(objectives=("helpful", "harmless"), base_model="path/to/base")
    adapter = inject_adapter(tiny_llama(), config)
    for layer in adapter.layers.values():
        torch.nn.init.constant_(layer.lora_s, 1.0)
    adapter.save(here / "runs" / "panacea-ppo")
    found = {}
    *_, snippet = (block for block in blocks(USING) if block.language == "python")
    exec(snippet.text, found)
    plain, base, merged = (found[f"{name}logits"] for name in ("", "base_", "merged_"))
    torch.testing.assert_close(merged, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(base, tiny_llama()(found["tokens"]).logits, atol=0, rtol=0)
    assert not torch.allclose(plain, base, atol=1e-3)


def test_the_page_trains_asks_and_exports(here, capsys):
    peft = pytest.importorskip("peft")
    ran = []
    for block in blocks(PAGE):
        for words in commands(block, here) if block.language == "bash" else ():
            if "runs/first" in words:
                command.main(adapted(words[1:]))
                ran.append(words[1])
        if block.language == "python":
            exec(
                block.text.replace("max_new_tokens=48", "max_new_tokens=4").replace(MODEL, "model"),
                {},
            )
            ran.append("python")
    assert ran == ["dpo", "respond", "python", "export", "python"]
    record = json.loads((here / "runs" / "first" / "run.json").read_text())
    assert record["finished_at"] and record["args"]["objectives"] == ["detailed", "brief"]
    printed = capsys.readouterr().out
    assert "[detailed=1,brief=0]" in printed and "[detailed=0,brief=1]" in printed
    model = peft.AutoPeftModelForCausalLM.from_pretrained(here / "exports" / "first")
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()
