"""The chat template from the flag through training to whoever loads the adapter."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.base.finetune import main as sft
from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.evaluation.__main__ import main as evaluation
from safe_rlhf_panacea.export.__main__ import main as export
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.respond import PanaceaModel
from tests.algorithms.conftest import write_lines
from tests.algorithms.helpers import ppo_trainer
from tests.chat_models import TEMPLATES, chat_tokenizer
from tests.tiny import tiny_llama

pytestmark = pytest.mark.usefixtures("no_page")
CHATML = (TEMPLATES / "chatml.jinja").read_text(encoding="utf-8")
ROW = {"response_0": "It is.", "response_1": "No!", "better_helpful": 0, "better_harmless": 1}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A random Llama whose tokenizer brings a template of its own."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = chat_tokenizer("chatml")
    model = tiny_llama(vocab=len(tokenizer), width=32, layers=1, seed=3)
    with torch.no_grad():
        model.lm_head.weight *= 15
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs with several turns and a system prompt among them."""
    rows = [{"prompt": f"Is {n} fine?", **ROW} for n in range(6)]
    rows.append({"prompt": ["Hello?", "Hello!", "Is it fine?"], "system": "Be brief.", **ROW})
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


@pytest.fixture
def flags(chat_model, data, tmp_path):
    return [
        *("--model_name_or_path", str(chat_model), "--objectives", "helpful", "harmless"),
        *("--train_datasets", f"pairs:1:{data}", "--output_dir", str(tmp_path / "out")),
        *("--max_length", "128", "--max_steps", "2", "--per_device_train_batch_size", "4"),
        *("--log_type", "none", "--progress", "false", "--lr", "5e-3"),
    ]


def record(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def test_whoever_loads_the_adapter_gets_the_template(flags, data, tmp_path):
    """Also where the base model's own is another one."""
    own = tmp_path / "own.jinja"
    own.write_text((TEMPLATES / "qwen.jinja").read_text(encoding="utf-8"), encoding="utf-8")
    dpo([*flags, "--chat_template", str(own)])
    text, out = own.read_text(encoding="utf-8"), tmp_path / "out"
    own.unlink()
    assert read_config(out).chat_template == record(out)["chat_template"] == text
    assert AutoTokenizer.from_pretrained(out).chat_template == text
    assert PanaceaModel.load(out).template.recorded == text
    assert PanaceaModel.load(out, chat_template="auto").template.recorded == CHATML

    front = ["--adapter", str(out), "--datasets", f"pairs:1:{data}", "--grid_step", "0.5"]
    front += ["--max_length", "128", "--progress", "false"]
    evaluation([*front, "--output_dir", str(tmp_path / "front")])
    assert record(tmp_path / "front")["chat_template"] == text
    merged = tmp_path / "merged"
    where = ["--adapter", str(out), "--output_dir", str(merged)]
    export([*where, "--format", "merged", "--preference", "1,0"])
    assert AutoTokenizer.from_pretrained(merged).chat_template == text
    assert json.loads((merged / "panacea.json").read_text())["chat_template"] == text


def test_auto_is_the_models_own_and_a_system_prompt_needs_a_place(flags, tmp_path, capsys):
    dpo(flags)
    assert read_config(tmp_path / "out").chat_template == CHATML
    with pytest.raises(SystemExit) as caught:
        dpo([*flags, "--overwrite", "--chat_template", "safe-rlhf"])
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert "pairs.jsonl:7: Safe-RLHF's template has no place for a system prompt" in line
    assert line.count("\n") == 1
    assert read_config(tmp_path / "out").chat_template == CHATML  # nothing was overwritten


def test_sft_leaves_a_model_that_says_how_it_is_spoken_to(chat_model, tmp_path):
    row = {"prompt": "Is it fine?", "response": "It is."}
    texts = write_lines(tmp_path / "texts.jsonl", [row])
    common = ["--model_name_or_path", str(chat_model), "--train_datasets", f"supervised:1:{texts}"]
    common += ["--max_length", "64", "--max_steps", "1", "--log_type", "none"]
    for choice, expected in (("auto", CHATML), ("safe-rlhf", None)):
        folder = tmp_path / choice
        sft([*common, "--chat_template", choice, "--output_dir", str(folder)])
        assert AutoTokenizer.from_pretrained(folder).chat_template == expected
        assert record(folder)["chat_template"] == (expected or choice)


def test_a_run_resumes_with_its_template(flags, tmp_path, capsys):
    file, out = tmp_path / "own.jinja", tmp_path / "out"
    file.write_text(CHATML, encoding="utf-8")
    flags += ["--chat_template", str(file), "--save_interval", "1"]
    dpo(flags)
    begun = record(out)
    del begun["finished_at"]
    older = {name: value for name, value in begun.items() if name != "chat_template"}
    for text, found in ((CHATML + " ", begun), (CHATML, older)):
        file.write_text(text, encoding="utf-8")
        (out / "run.json").write_text(json.dumps(found), encoding="utf-8")
        with pytest.raises(SystemExit):
            dpo([*flags, "--resume"])
        told = capsys.readouterr().err
        assert "the chat template is not the one that the run began with" in told


def test_ppo_reads_prompts_in_the_template_and_shows_the_users_words(chat_model, data, tmp_path):
    from safe_rlhf_panacea.base import AutoModelForScore

    torch.manual_seed(0)
    options = {"score_type": "reward", "fresh_head": True}
    for name in ("helpful", "harmless"):
        loaded = load_pretrained_models(
            str(chat_model), auto_model_type=AutoModelForScore, auto_model_kwargs=options
        )
        for part in loaded:
            part.save_pretrained(tmp_path / name)
    models = [f"{name}={tmp_path / name}" for name in ("helpful", "harmless")]
    trainer = ppo_trainer(
        [
            *("--actor_model_name_or_path", str(chat_model), "--reward_models", *models),
            *("--train_datasets", f"prompts:1:{data}", "--output_dir", str(tmp_path / "out")),
            *("--max_length", "128", "--max_steps", "1", "--per_device_train_batch_size", "7"),
            *("--per_device_prompt_batch_size", "7", "--gradient_accumulation_steps", "1"),
            *("--log_type", "none", "--progress", "false", "--need_eval"),
            *("--eval_strategy", "steps", "--eval_datasets", f"prompts:1:{data}"),
            *("--eval_grid_step", "0.5"),
        ]
    )
    assert {model.now for model in trainer.rewards.models} == {trainer.template.now} != {None}
    tokenizer = trainer.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert set(trainer.generation_config.stop_ids) == {end, tokenizer.eos_token_id}
    texts = [tokenizer.decode(row["input_ids"]) for row in trainer.prompt_only_dataloader.dataset]
    assert texts[0].endswith("<|im_start|>user\nIs 0 fine?<|im_end|>\n<|im_start|>assistant\n")
    assert texts[6].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?")
    trainer.train()
    (last,) = read_evaluations(tmp_path / "out")[-1:]
    prompts = {entry["prompt"] for entry in last.responses}
    assert "Is 0 fine?" in prompts
    assert not any("<|im_" in prompt for prompt in prompts)


def untrained(model, folder, **options):
    """An adapter at its start on a model, saved."""
    config = AdapterConfig(lora_dim=2, objectives=("helpful", "harmless"), **options)
    inject_adapter(model, config).save(folder)
    return folder


@pytest.mark.parametrize("name", ["chatml", "gemma", "headers"])
def test_an_untrained_adapter_answers_as_transformers_does(chat_model, tmp_path, name):
    """The same greedy tokens, to the first of the model's end tokens."""
    model, tokenizer = load_pretrained_models(str(chat_model))
    tokenizer = chat_tokenizer(name)
    turns = ["Hello?", "Hello!", "Is it fine?"]
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    free = model.generate(ids, do_sample=False, max_new_tokens=20, eos_token_id=None)
    # The model's second end token is the first that it says anew after a few others.
    said = free[0, ids.size(1) :].tolist()
    second = next(token for i, token in enumerate(said) if i > 3 and token not in said[:i])
    ends = [*ChatTemplate.of("auto", tokenizer).stop_ids(), second]
    expected = model.generate(ids, do_sample=False, max_new_tokens=20, eos_token_id=ends)
    assert expected.size(1) < free.size(1)  # else the second end token shows nothing

    model.generation_config.eos_token_id = ends
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    text = tokenizer.chat_template
    folder = untrained(model, tmp_path / "adapter", chat_template=text)
    panacea = PanaceaModel.load(folder, str(tmp_path / "base"))
    answer = panacea.respond(turns, "0.5,0.5", temperature=0, max_new_tokens=20)
    skipped = tokenizer.decode(expected[0, ids.size(1) :], skip_special_tokens=True)
    assert answer == skipped.strip()
