"""``make small``: its prompts, its rewards, and the whole of it with a tiny model."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.experiments.table import settings
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.records import read_examples
from safe_rlhf_panacea.small import __main__ as program
from safe_rlhf_panacea.small.__main__ import Small
from safe_rlhf_panacea.small.model import RECORD
from safe_rlhf_panacea.small.prompts import TOPICS, rows
from safe_rlhf_panacea.small.prompts import main as write_main
from tests.tiny import tiny_llama, tiny_tokenizer


def prompts(split):
    return [row["prompt"] for row in rows(split)]


def test_prompts_and_no_topic_in_two_splits(tmp_path, capsys):
    texts = [text for split in TOPICS for text in prompts(split)]
    assert len(texts) == len(set(texts)) == 4 * (15 + 4 + 24)
    topics = [topic for split in TOPICS.values() for topic in split]
    assert len(set(topics)) == len(topics)
    for text in prompts("eval"):
        assert not any(topic in text for split in ("train", "tune") for topic in TOPICS[split])
    write_main(["--output_dir", str(tmp_path / "new")])
    assert "prompts-eval.jsonl: 96 prompts" in capsys.readouterr().out
    text = (tmp_path / "new" / "prompts-eval.jsonl").read_text()
    assert [json.loads(line)["prompt"] for line in text.splitlines()] == prompts("eval")


@pytest.fixture
def model(tmp_path):
    """A tiny model, as if it had been prepared."""
    folder = tmp_path / "model"
    tokenizer = tiny_tokenizer(512)
    tiny_llama(vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    atomic_write_json(folder / RECORD, {})
    return folder


def test_a_copy_of_the_model_that_came_from_elsewhere_will_do(model, tmp_path):
    (model / RECORD).unlink()
    numbers = settings("small", "smoke")
    small = Small(root=tmp_path, model=model, seed=0, settings=numbers, bf16=False)
    small.prepare()
    assert small.max_length > small.settings.answer


def flags(model, folder):
    plain = ["--wandb", "false", "--progress", "false", "--bf16", "false"]
    return ["--model", str(model), "--output_dir", str(folder), "--smoke", *plain]


@pytest.mark.usefixtures("no_page")
def test_the_whole_of_it(model, tmp_path, capsys):
    pytest.importorskip("vaderSentiment")
    folder = tmp_path / "run"
    program.main(flags(model, folder))
    results = read_json(folder / "results.json")
    assert results["front"]["objectives"] == ["positive", "concise"]
    assert [p["preference"] for p in results["front"]["front"]] == [[0.0, 1.0], [1.0, 0.0]]
    assert results["settings"]["steps"] == 2
    assert set(results["seconds"]) == {"prepare", "train", "evaluate", "total"}
    rows = read_json(folder / "evaluation" / "responses.json")
    asked = {row["prompt"] for row in rows}
    assert len(asked) == len(prompts("eval"))
    assert all(any(topic in text for topic in TOPICS["eval"]) for text in asked)
    record = read_json(folder / "panacea-grpo" / "run.json")
    assert record["args"]["train_datasets"] == [f"prompts:1:{folder}/prompts-train.jsonl"]
    assert record["args"]["eval_datasets"] == [f"prompts:8/-1:{folder}/prompts-tune.jsonl"]
    examples = read_examples(folder / "panacea-grpo")
    assert len({topic for topic in TOPICS["eval"] for p in examples.prompts if topic in p}) == 4
    page = (folder / "report.txt").read_text()
    assert "at five preference vectors λ = (positive, concise):" in page
    assert page in capsys.readouterr().out

    with pytest.raises(SystemExit) as stop:
        program.main(flags(model, folder))
    assert stop.value.code == 2
    assert "already holds a run" in capsys.readouterr().err

    program.main([*flags(model, folder), "--overwrite"])
    again = read_json(folder / "results.json")
    assert again["front"]["front"] == results["front"]["front"]
    assert again["seconds"] != results["seconds"]


def test_a_missing_package_is_told_before_anything_is_made(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        program.main(flags(model, tmp_path / "run"))
    assert stop.value.code == 2
    assert "vaderSentiment is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
