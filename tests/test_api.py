"""The classes that train from Python."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, DatasetDict
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
    PanaceaSFT,
    RewardConfig,
    RewardedSoups,
    RewardModel,
    SFTConfig,
    UserError,
)
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.grpo import COMMAND as GRPO
from safe_rlhf_panacea.training_run import data_specs
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


def in_memory():
    return tiny_llama(vocab=len(tiny_tokenizer()), width=16, layers=1), tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab=len(tokenizer), width=16, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_grpo_with_a_function_and_a_classifier_in_memory(model, tmp_path, monkeypatch):
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
    before = run.trainer.grid
    front = run.evaluate("1,0")
    assert front.preferences.tolist() == [[1, 0]]
    assert all(part._repr_html_().count("<table") == 1 for part in (front, run.history))
    with monkeypatch.context() as asked:
        asked.setattr(type(run.trainer), "measured", lambda _, grid: grid)
        for one in ([{"many": 1, "liked": 0}], {"many": 1, "liked": 0}, [1, 0]):
            assert run.evaluate(one).tolist() == [[1, 0]]
        assert run.evaluate(0.5).tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    for grid, message in (([], "at least one λ"), ([[1, 0], "many=1,liked=0"], "a λ twice")):
        with pytest.raises(UserError, match=message):
            run.evaluate(grid)
    assert run.trainer.grid is before
    assert repr(run) == f"<PanaceaGRPO in {run.output_dir}: trained for 2 steps>"
    assert len(repr(run.model)) < 80
    answers = {
        run.model.respond("abc", preference, max_new_tokens=4)
        for preference in ({"many": 0.25, "liked": 0.75}, [0.25, 0.75], "many=0.25,liked=0.75")
    }
    loaded = PanaceaModel.load(run.output_dir)
    assert answers == {loaded.respond("abc", "0.25,0.75", max_new_tokens=4)}
    with pytest.raises(UserError, match="called already"):
        run.train()
    flags = ["--config", str(run.output_dir / "run.yaml"), "--output_dir", str(tmp_path / "again")]
    new = {
        "actor_model_name_or_path": [str(model)],
        "train_datasets": ["x.jsonl"],
        "eval_datasets": ["y.jsonl"],
    }
    new["reward_models"] = ["a=safe_rlhf_panacea.reward_functions:positive", "b=folder"]
    for name, values in new.items():
        if name != "actor_model_name_or_path":  # which was given by its folder
            with pytest.raises(UserError, match=f"--{name}: the run was made in Python with"):
                GRPO.read(flags)
        flags += [f"--{name}", *values]
    assert GRPO.read(flags).num_return_sequences == 2


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
    given = in_memory()
    PanaceaDPO(given, PAIRS, config=from_rows).train()
    with pytest.raises(UserError, match="carries the adapter of an earlier training"):
        PanaceaDPO(given, PAIRS, config=from_rows.with_(output_dir=tmp_path / "more"))
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
        ({"train_dataset": {"a": {"b": "x"}}}, "data must be a path, a name, or rows, not a dict"),
        ({"train_dataset": {}}, "train_datasets is missing"),
        ({"train_dataset": DatasetDict({"test": Dataset.from_list(PROMPTS)})}, "splits test: give"),
        ({"config": GRPOConfig(output_dir="x")}, r"are a DPOConfig\(...\), not a GRPOConfig"),
        ({"config": DPOConfig}, r"are a DPOConfig\(...\), not a class"),
        ({"model": in_memory()[0]}, "a LlamaForCausalLM is no model: give a name"),
        ({"model": in_memory()[:1]}, r"a pair \(model, tokenizer\), not 1 parts"),
        ({"model": (in_memory()[0], None)}, "tokenizer is a NoneType"),
        ({"model": 3}, "a int is no model"),
        ({"model": None}, "model_name_or_path is missing"),
    ],
)
def test_bad_input_is_an_exception_before_anything_is_loaded(changes, message, tmp_path):
    given = {"model": "no-such", "train_dataset": PAIRS, "config": DPOConfig(output_dir="x")}
    with pytest.raises(ValueError, match=message):
        PanaceaDPO(**{**given, **changes})


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([many_a], "rewards are a dictionary by name.*, not a list"),
        ({}, "reward_models is missing"),
        ({"a": 3}, "the reward 'a' is a int; it is a function"),
        ({"a": in_memory()[0]}, "the reward 'a' is a LlamaForCausalLM; it is"),
    ],
)
def test_bad_rewards_are_named(rewards, message):
    with pytest.raises(UserError, match=message):
        PanaceaGRPO("no-such", rewards, PROMPTS, config=GRPOConfig(output_dir="x", **GROUPS))


def test_reward_models_and_soups_name_what_they_take():
    options = {"config": DPOConfig(output_dir="x")}
    with pytest.raises(UserError, match="give its name or folder"):
        RewardedSoups(PanaceaDPO, in_memory(), PAIRS, **options)
    with pytest.raises(UserError, match="soups take PanaceaDPO or the like as algorithm"):
        RewardedSoups(RewardModel, "no-such", PAIRS, **options)
    with pytest.raises(UserError, match="from a name or a folder, not from memory"):
        RewardModel(in_memory(), PAIRS["a"], config=RewardConfig(output_dir="x", objective="a"))
    with pytest.raises(UserError, match="objective is missing in the options: whose labels"):
        RewardModel("no-such", PAIRS["a"], config=RewardConfig(output_dir="x"))


def test_rows_that_can_be_gone_through_once_are_read_once():
    data = {name: iter(rows) for name, rows in PAIRS.items()}
    soups = RewardedSoups(PanaceaDPO, "no-such", data, config=DPOConfig(output_dir="x"))
    assert [len(spec.data) for spec in soups.runs["b"].config.train_datasets] == [4, 4]


def test_a_training_that_fails_to_begin_lets_go_of_its_folder_and_can_begin_again(model, tmp_path):
    config = DPOConfig(output_dir=tmp_path, max_steps=1, per_device_train_batch_size=4, **QUIET)
    PanaceaDPO(model, PAIRS, config=config).train()
    failing = PanaceaDPO(tmp_path / "none", PAIRS, config=config.with_(overwrite=True))
    for _ in range(2):
        with pytest.raises(UserError, match="none: no such folder"):
            failing.train()
        code = "import sys; from safe_rlhf_panacea.runs.run_folder import lock_folder as lock"
        subprocess.run([sys.executable, "-c", f"{code}; lock(sys.argv[1])", tmp_path], check=True)


def test_an_interrupted_run_goes_on_with_rows_and_a_model_in_memory(tmp_path):
    left = [0]

    def interrupting(responses):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return [response.count("b") / 10 for response in responses]

    def run(name, **changes):
        config = GRPOConfig(output_dir=tmp_path / name, max_steps=4, **GROUPS, **QUIET)
        config = config.with_(save_interval=1, log_dir=tmp_path / f"{name}-logs", **changes)
        rewards = {"a": many_a, "b": interrupting}
        return PanaceaGRPO(in_memory(), rewards, iter(PROMPTS), config=config)

    run("whole").train()
    left[0] = 3
    with pytest.raises(KeyboardInterrupt, match="goes on from step"):
        run("cut").train()
    resumed = run("cut", resume=True).train()
    assert [line["step"] for line in resumed.history] == [1, 2, 3, 4]
    weights = [load_file(tmp_path / n / "adapter_model.safetensors") for n in ("whole", "cut")]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_a_model_answers_messages_and_refuses_what_it_cannot_draw(model, tmp_path):
    config = {"max_steps": 1, "per_device_train_batch_size": 4, **QUIET}
    texts = {"a": [{"prompt": "abc", "response": "aaa"}] * 4}
    run = PanaceaSFT(model, texts, config=SFTConfig(output_dir=tmp_path / "run", **config))
    answer = run.train().model.respond(["abc", "b", "c"], [1.0], max_new_tokens=3)
    roles = zip(("user", "assistant", "user"), ("abc", "b", "c"), strict=True)
    messages = [{"role": role, "content": text} for role, text in roles]
    assert run.model.respond(messages, [1.0], max_new_tokens=3) == answer
    for prompt, changes, message in (
        (messages[1:], {}, "do not take turns"),
        (3, {}, "the prompt is int"),
        ("a", {"max_new_tokens": 0}, "--max_new_tokens: 0 is not a positive integer"),
        ("a", {"temperature": -1}, "--temperature: -1 is not"),
        ("a", {"seed": -1}, "--seed: -1 is not a seed"),
    ):
        with pytest.raises(UserError, match=message):
            run.model.respond(prompt, [1.0], **changes)
    with pytest.raises(UserError, match="at least one objective"):
        PanaceaModel.load_soup({})


def test_data_are_what_the_options_take():
    assert data_specs({"a": "x.jsonl", "b": ["y", "z"]}) == ("a=x.jsonl", "b=y", "b=z")
    (spec,) = data_specs(Dataset.from_list(PROMPTS).to_iterable_dataset())  # streamed
    assert len(spec.data) == 4
    (spec,) = data_specs(iter(PROMPTS))
    assert (spec.name, len(spec.data)) == ("rows", 4)


@pytest.mark.parametrize(
    "make", [list, tuple, iter, lambda texts: Dataset.from_dict({"a": texts})["a"]]
)
def test_texts_are_prompts(make):
    (spec,) = data_specs(make(["Who?", "Say hi, please."]))
    assert [row["input"] for row in spec.data] == ["Who?", "Say hi, please."]


def test_names_and_files_are_no_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    for names in (("alpaca", "pairs"), ("no such.jsonl", "a"), ("my data", "a=my data:0.5")):
        assert data_specs(list(names)) == names


def test_the_public_names_are_there_and_load_late():
    names = safe_rlhf_panacea.__all__
    assert [name for name in names if not getattr(safe_rlhf_panacea, name).__doc__] == []
    assert set(names) <= set(dir(safe_rlhf_panacea))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = safe_rlhf_panacea.no_such_name
    code = "import sys, safe_rlhf_panacea; assert not {'torch', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
