"""The classes that train from Python."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForSequenceClassification

import safe_rlhf_panacea
from safe_rlhf_panacea import (
    DPOConfig,
    GRPOConfig,
    LoadedModel,
    PanaceaDPO,
    PanaceaGRPO,
    PanaceaModel,
    RewardedSoups,
    UserError,
)
from safe_rlhf_panacea.algorithms.dpo.main import main as dpo
from safe_rlhf_panacea.api import data_specs
from tests.tiny import tiny_llama, tiny_tokenizer

QUIET = {"log_type": "none", "progress": False, "max_length": 32}
GROUPS = {
    "per_device_train_batch_size": 4,
    "per_device_prompt_batch_size": 2,
    "num_return_sequences": 2,
    "gradient_accumulation_steps": 1,
}
PROMPTS = [{"prompt": text} for text in ("abc", "bcd", "cde", "def")]
PAIRS = {
    "a": [{"prompt": "abc", "chosen": "aaa", "rejected": "bb"}] * 4,
    "b": [{"prompt": "abc", "chosen": "bb", "rejected": "aaa"}] * 4,
}


def many_a(responses, **_):
    return [response.count("a") / 10 for response in responses]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab=len(tokenizer), width=16, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_grpo_with_a_function_and_a_classifier_in_memory(model, tmp_path):
    tokenizer = tiny_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "pad_token_id": 0}
    classifier = LlamaForSequenceClassification(LlamaConfig(num_labels=2, **shape)).eval()
    run = PanaceaGRPO(
        model,
        {"many": many_a, "liked": LoadedModel(classifier, tokenizer, label="LABEL_1")},
        Dataset.from_list(PROMPTS),
        PROMPTS[:2],
        config=GRPOConfig(output_dir=tmp_path / "run", max_steps=2, **GROUPS, **QUIET),
    )
    assert run.history == []
    with pytest.raises(UserError, match="holds no trained adapter yet"):
        _ = run.model
    with pytest.raises(UserError, match=r"call train\(\) first"):
        run.evaluate()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run.train()
    assert torch.equal(torch.rand(1), expected)
    table = run.history.to_pandas()
    assert {"train/reward_many", "train/reward_liked"} <= set(table.columns)
    before = run.trainer.part.evaluator.grid
    assert run.evaluate(0.5) is not None
    assert run.evaluate([{"many": 1, "liked": 0}]) is not None
    assert run.trainer.part.evaluator.grid is before
    answers = {
        run.model.respond("abc", preference, max_new_tokens=4)
        for preference in ({"many": 0.25, "liked": 0.75}, [0.25, 0.75], "many=0.25,liked=0.75")
    }
    loaded = PanaceaModel.load(run.output_dir)
    assert answers == {loaded.respond("abc", "0.25,0.75", max_new_tokens=4)}
    with pytest.raises(UserError, match="trained already"):
        run.train()


def test_the_command_and_the_class_train_the_same(model, tmp_path):
    files = {}
    for name, rows in PAIRS.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model_name_or_path", str(model), "--output_dir", str(tmp_path / "command")]
    flags += ["--train_datasets", *(f"{name}={file}" for name, file in files.items())]
    rest = "--lr 1e-2 --max_steps 3 --per_device_train_batch_size 4 --max_length 32"
    flags += shlex.split(rest)
    dpo([*flags, "--log_type", "none", "--progress", "false"])
    config = DPOConfig(lr=1e-2, max_steps=3, per_device_train_batch_size=4, **QUIET)
    from_files = config.with_(output_dir=tmp_path / "files")
    PanaceaDPO(str(model), files, config=from_files).train()
    from_rows = config.with_(output_dir=tmp_path / "rows")
    given = (tiny_llama(vocab=len(tiny_tokenizer()), width=16, layers=1), tiny_tokenizer())
    PanaceaDPO(given, PAIRS, config=from_rows).train()
    weights = [
        load_file(tmp_path / name / "adapter_model.safetensors")
        for name in ("command", "files", "rows")
    ]
    assert any(tensor.abs().sum() > 0 for name, tensor in weights[0].items() if "lora_s" in name)
    for other in weights[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in weights[0].items())
    again = ["--config", str(tmp_path / "command" / "run.yaml")]
    dpo([*again, "--output_dir", str(tmp_path / "again")])
    tensors = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in weights[0].items())


def test_soups_are_the_ends_and_go_on_where_they_stopped(model, tmp_path):
    config = DPOConfig(output_dir=tmp_path, max_steps=2, per_device_train_batch_size=4, **QUIET)
    soups = RewardedSoups(PanaceaDPO, model, PAIRS, config=config).train()
    records = [tmp_path / name / "run.json" for name in PAIRS]
    written = records[0].stat().st_mtime_ns
    values = json.loads(records[1].read_text())
    assert values["args"]["fixed_preference"] == "a=0,b=1"
    del values["finished_at"]
    records[1].write_text(json.dumps(values))  # as an interruption leaves it
    RewardedSoups(PanaceaDPO, model, PAIRS, config=config).train()
    assert records[0].stat().st_mtime_ns == written
    assert "finished_at" in json.loads(records[1].read_text())
    assert (tmp_path / "b.interrupted-1" / "run.json").exists()
    assert soups.model.adapter.pref_dim == 2
    mixed = soups.model
    assert isinstance(mixed.respond("abc", {"a": 0.5, "b": 0.5}, max_new_tokens=4), str)
    with pytest.raises(ValueError, match="sums to 2"):
        mixed.respond("abc", torch.tensor([1.0, 1.0]), max_new_tokens=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": DPOConfig(**QUIET)}, "output_dir is missing"),
        ({"config": DPOConfig(output_dir="x", pref_dim=3)}, "--pref_dim is 3, but there are 2"),
        ({"train_dataset": 3}, "data must be a path, a name, or rows, not a int"),
        ({"train_dataset": {"a": [{"text": 1}]}}, "rows, row 1: the columns text"),
        ({"train_dataset": {"a": []}}, "rows"),
    ],
)
def test_bad_input_is_an_exception_before_anything_is_loaded(changes, message, tmp_path):
    given = {"model": "no-such", "train_dataset": PAIRS, "config": DPOConfig(output_dir="x")}
    with pytest.raises(ValueError, match=message):
        PanaceaDPO(**{**given, **changes})


def test_soups_of_a_model_in_memory_are_refused():
    with pytest.raises(UserError, match="give its name or folder"):
        RewardedSoups(PanaceaDPO, (None, None), PAIRS, config=DPOConfig(output_dir="x"))


def test_data_are_what_the_options_take():
    assert data_specs({"a": "x.jsonl", "b": ["y", "z"]}) == ("a=x.jsonl", "b=y", "b=z")
    (spec,) = data_specs(iter(PROMPTS))
    assert (spec.name, len(spec.data)) == ("rows", 4)


def test_the_public_names_are_there_and_load_late():
    names = safe_rlhf_panacea.__all__
    assert [name for name in names if not getattr(safe_rlhf_panacea, name).__doc__] == []
    assert set(names) <= set(dir(safe_rlhf_panacea))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = safe_rlhf_panacea.no_such_name
    code = "import sys, safe_rlhf_panacea; assert not {'torch', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
