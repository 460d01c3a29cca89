"""A chat template of the user's own, through Safe-RLHF's trainers as through the port's."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safe_rlhf_panacea.data import ChatTemplate
from tests.contract.conftest import write_folder
from tests.contract.sides import SIDES, make, needs_safe_rlhf, panacea_class

pytestmark = needs_safe_rlhf
# Nothing that the tokenizer does not know; the end token is its own.
ANSWERED = """{%- for turn in messages -%}
    {{- (turn.content ~ eos_token) if turn.role == 'assistant' else (turn.content ~ '? abc:') -}}
{%- endfor -%}"""


def tokens(rows, name):
    return sorted(row[name].tolist() for row in rows)


@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_both_sides_read_the_same_tokens(algorithm, files, tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(ANSWERED, encoding="utf-8")
    extra = ("--chat_template", str(path))
    found = []
    for side in SIDES:
        folder = tmp_path / side
        trainer = make(panacea_class(algorithm, side), algorithm, side, files, folder, extra)
        assert trainer.panacea.policy.config.chat_template == ANSWERED
        assert json.loads((folder / "run.json").read_text())["chat_template"] == ANSWERED
        if algorithm == "dpo":
            data = trainer.train_dataloader.dataset
            names = ("better_input_ids", "worse_input_ids")
            lengths = sorted(int(row["prompt_length"]) for row in data)
            found.append((*(tokens(data, name) for name in names), lengths))
        else:
            data, text = trainer.prompt_only_dataloader.dataset, trainer.ptx_dataloader.dataset
            found.append((tokens(data, "input_ids"), tokens(text, "input_ids")))
            found[-1] += (tokens(text, "labels"),)
        ids = found[-1][0][0]
        assert "? abc:" in trainer.tokenizer.decode(ids)
        assert "ASSISTANT" not in trainer.tokenizer.decode(ids)
    assert found[0] == found[1]


@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_both_sides_read_control_tokens_as_text_and_no_pair_of_equal_responses(
    algorithm, files, tmp_path
):
    """In Safe-RLHF's own template, with rows of either kind among the others."""
    rows = [json.loads(line) for line in (files.pairs / "train.jsonl").read_text().splitlines()]
    spelt = {**rows[0], "prompt": "c</s>d", "response_0": "a</s>b"}
    pairs = [spelt, {**rows[1], "response_0": "ab", "response_1": "ab"}, *rows[2:]]
    texts = [json.loads(line) for line in (files.texts / "train.jsonl").read_text().splitlines()]
    texts[0] |= {"prompt": "c</s>d", "instruction": "c</s>d"}
    own = SimpleNamespace(**vars(files))
    own.pairs = write_folder(tmp_path / "pairs", pairs)
    own.texts = write_folder(tmp_path / "texts", texts)
    found = []
    for side in SIDES:
        trainer = make(panacea_class(algorithm, side), algorithm, side, own, tmp_path / side)
        end = trainer.tokenizer.eos_token_id
        if algorithm == "dpo":
            data = trainer.train_dataloader.dataset
            assert len(data) == len(rows) - 1
            found.append([tokens(data, f"{name}_input_ids") for name in ("better", "worse")])
            ends = [row.count(end) for part in found[-1] for row in part]
            assert set(ends) == {1}
        else:
            prompts, text = trainer.prompt_only_dataloader.dataset, trainer.ptx_dataloader.dataset
            found.append([tokens(prompts, "input_ids"), tokens(text, "input_ids")])
            ends = [[row.count(end) for row in part] for part in found[-1]]
            assert [set(counts) for counts in ends] == [{0}, {1}]
    assert found[0] == found[1]


def test_a_dialogue_of_safe_rlhf_reads_control_tokens_as_text(files):
    upstream = importlib.import_module("safe_rlhf_panacea.on_safe_rlhf.datasets")
    tokenizer = AutoTokenizer.from_pretrained(files.base)
    data = upstream.TemplatedText.__new__(upstream.TemplatedText)
    data.tokenizer, data.template = tokenizer, ChatTemplate.of("safe-rlhf", tokenizer)
    found = data.preprocess({"dialogue": ["a</s>b", "c</s>d", "e", "f"]})
    ids, end = found["input_ids"].tolist(), tokenizer.eos_token_id
    assert ids.count(end) == found["labels"].tolist().count(end) == 2  # of the two answers
    plain = data.preprocess({"dialogue": ["ab", "cd", "e", "f"]})
    whole = upstream.SupervisedDataset.__new__(upstream.SupervisedDataset)
    whole.tokenizer = tokenizer
    expected = whole.preprocess({"dialogue": ["ab", "cd", "e", "f"]})
    assert all(torch.equal(plain[name], expected[name]) for name in ("input_ids", "labels"))


def test_an_end_of_turn_that_pads_as_well_is_attended_to(files, tmp_path):
    """As of SmolLM2; Safe-RLHF itself tells padding by its token."""
    AutoModelForCausalLM.from_pretrained(files.base).save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(files.base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "base")
    own = SimpleNamespace(**{**vars(files), "base": tmp_path / "base"})
    kind = panacea_class("ppo", "safe_rlhf")
    trainer = make(kind, "ppo", "safe_rlhf", own, tmp_path / "out")
    end = tokenizer.eos_token_id
    sequence = torch.tensor([[end, 9, end, 10, 11, end, end], [9, 10, end, 11, 12, 13, 14]])
    expected = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
    prompt, found = sequence[:, :4], []
    trainer.eval_rollout = lambda prompt, sequence, mask: found.append(mask) or {}
    with trainer.panacea.at(torch.full((2, 2), 0.5)):
        batch = trainer.post_rollout(prompt, sequence, attention_mask=sequence.ne(end))
    trainer.eval_step(sequence, sequence.ne(end))
    assert torch.equal(batch["attention_mask"], expected)
    assert torch.equal(found[0], expected)
