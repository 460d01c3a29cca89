"""Panacea-SFT: losses, gradients and front against float64 computations; shared rows; errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.algorithms.sft import main
from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.show import pictures
from safe_rlhf_panacea.show.plots import picture_bytes
from tests.algorithms.conftest import write_lines
from tests.algorithms.helpers import sft_trainer
from tests.algorithms.plain_ppo import at_preference, doubled, hidden_states

pytestmark = pytest.mark.usefixtures("no_page")


def weights_and_factors(trainer):
    """W0 and the adapter's tensors in float64, the latter with gradients."""
    tensors = doubled(dict(trainer.model.module.named_parameters()))
    factors = {name: t.requires_grad_() for name, t in tensors.items() if ".lora_" in name}
    return {name: t for name, t in tensors.items() if name not in factors}, factors


def negative_log_likelihood(weights, ids, labels):
    """-Σ log π of the labelled tokens of one text without padding, and their number."""
    logits = hidden_states(weights, ids) @ weights["lm_head.weight"].T
    predicted = logits.log_softmax(dim=-1)
    answer = [t for t in range(1, len(ids)) if labels[t] != IGNORE_INDEX]
    return -sum(predicted[t - 1, ids[t]] for t in answer), len(answer)


def test_the_same_data_under_two_names_is_read_once_and_counts_for_both(sft_flags, objective_texts):
    shared = f"supervised:1:{objective_texts['helpful']}"
    own = f"supervised:0.5:{objective_texts['harmless']}"
    specs = [f"helpful={shared}", f"harmless={shared}", f"harmless={own}"]
    trainer = sft_trainer([*sft_flags, "--train_datasets", *specs])
    dataset = trainer.train_dataloader.dataset
    assert len(dataset) == 24 + 8
    assert dataset.labelled.tolist() == [[True, True]] * 24 + [[False, True]] * 8
    batch = dataset.get_collator()([dataset[i] for i in range(6)])  # all of them shared
    for vector in ([1.0, 0.0], [0.2, 0.8]):
        with trainer.panacea.at(torch.tensor([vector]).expand(6, -1)):
            found = trainer.loss(**batch)
        assert found["loss"].item() == pytest.approx(found["loss_helpful"].mean().item(), rel=1e-5)
        assert torch.equal(found["loss_helpful"], found["loss_harmless"])


def test_of_pairs_an_objective_has_what_its_labels_prefer(sft_flags, tmp_path):
    labels = [(0, 1), (1, 1), (None, 0), (None, None)]
    rows = [
        {
            "prompt": "cd",
            "response_0": "a" * (i + 1),
            "response_1": "b" * (i + 1),
            "better_helpful": helpful,
            "better_harmless": harmless,
        }
        for i, (helpful, harmless) in enumerate(labels)
    ]
    spec = f"pairs:1:{write_lines(tmp_path / 'four.jsonl', rows)}"
    specs = [f"helpful={spec}", f"harmless={spec}"]
    trainer = sft_trainer([*sft_flags, "--train_datasets", *specs])
    dataset = trainer.train_dataloader.dataset
    found = []
    for i in range(len(dataset)):
        row = dataset[i]
        answer = row["input_ids"][row["labels"].ne(IGNORE_INDEX)]
        found.append((trainer.tokenizer.decode(answer[:-1]), row["labelled"].tolist()))
    assert found == [
        ("a", [True, False]),
        ("b", [False, True]),
        ("bb", [True, True]),
        ("aaa", [False, True]),
    ]


def test_a_batch_with_texts_of_one_objective(sft_flags):
    trainer = sft_trainer(sft_flags)
    dataset = trainer.train_dataloader.dataset
    batch = dataset.get_collator()([dataset[i] for i in range(5)])
    assert batch["labelled"].tolist() == [[True, False]] * 5
    with trainer.panacea.at(torch.tensor([[0.25, 0.75]]).expand(5, -1)):
        found = trainer.loss(**batch)
    mean = found["loss_helpful"].mean().item()
    assert found["loss"].item() == pytest.approx(0.25 * mean, rel=1e-6)
    tokens = batch["labels"].ne(IGNORE_INDEX).sum().item()
    per_token = mean * 5 / tokens
    assert found["loss_per_token_helpful"].mean().item() == pytest.approx(per_token, rel=1e-5)
    assert found["loss_harmless"].numel() == found["loss_per_token_harmless"].numel() == 0


def test_the_front_is_of_held_out_log_likelihoods(sft_flags, objective_texts, tmp_path):
    counts = {"helpful": 5, "harmless": 3}
    specs = [f"{n}=supervised:{c}/-1:{objective_texts[n]}" for n, c in counts.items()]
    flags = [*sft_flags, "--need_eval", "--eval_datasets", *specs, "--eval_grid_step", "0.5"]
    flags += ["--eval_prompts", "2", "--per_device_eval_batch_size", "8"]
    trainer = sft_trainer(flags)
    trainer.train()
    weights, factors = weights_and_factors(trainer)
    texts = trainer.eval_dataloader.dataset
    last = read_evaluations(tmp_path / "out")[-1]
    assert last.result.kind == "log-likelihood"
    assert last.result.metadata == {"labelled_texts": [5, 3], "prompts": 2}

    def by_objective(composed):
        found = {0: [], 1: []}
        for i in range(len(texts)):
            row = texts[i]
            total, tokens = negative_log_likelihood(
                composed, row["input_ids"], row["labels"].tolist()
            )
            found[row["labelled"].tolist().index(True)].append(-total.item() / tokens)
        return [np.array(values) for values in found.values()]

    for point in last.front.points:
        preference = torch.tensor(point.preference, dtype=torch.float64)
        values = by_objective(at_preference(weights, factors, preference))
        assert point.objectives == pytest.approx([v.mean() for v in values], abs=1e-4)
        errors = [v.std(ddof=1) / len(v) ** 0.5 for v in values]
        assert point.standard_errors == pytest.approx(errors, abs=1e-4)
    start = by_objective(weights)
    base = last.result.base
    assert base.objectives == pytest.approx([v.mean() for v in start], abs=1e-4)
    low = [v.mean() - 2 * v.std(ddof=1) for v in start]
    assert last.result.reference_point == pytest.approx(low, abs=0.006)
    assert [len(column) for column in last.distributions[0]] == [5, 3]
    assert picture_bytes(pictures.distributions(last)).startswith(b"\x89PNG")


def test_it_learns_a_front(sft_flags, tmp_path):
    flags = ["--max_steps", "30", "--lr", "2e-2", "--preference_scope", "sample"]
    flags += ["--eval_grid_step", "0.5", "--eval_prompts", "1"]
    main([*sft_flags, *flags, "--need_eval", "--eval_split_ratio", "0.25"])
    first, *_, last = read_evaluations(tmp_path / "out")
    assert np.ptp(first.front.values, axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert last.result.indicators["spearman"] == pytest.approx([1.0, 1.0])
    assert last.result.indicators["dominated"] == 0
    assert (last.front.values.min(axis=0) > first.front.values[0]).all()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["program"] == "python -m safe_rlhf_panacea.algorithms.sft"
    assert record["args"]["objectives"] == ["helpful", "harmless"]
    assert "finished_at" in record
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["a=pears:1:x", "b=pears:1:y"], "unknown data set 'pears'"),
        (["a=supervised:1:none.jsonl", "b=supervised:1:y"], "none.jsonl: no such file"),
        (["a=supervised:1:{texts}", "b=pairs:1:{pairs}"], "no text is left for objective 'b'"),
        (["a=pairs:1:{pairs}", "b=pairs:1:{pairs}"], "no pair has a label for one of a, b"),
        (["a=supervised:1:{texts}", "b=supervised:1:{long}"], "no text is left for objective 'b'"),
    ],
)
def test_bad_data_is_one_line(specs, words, sft_flags, texts, pairs, tmp_path, capsys):
    long = write_lines(tmp_path / "long.jsonl", [{"prompt": "c" * 99, "response": "a"}])
    files = {"texts": texts, "pairs": pairs, "long": long}
    with pytest.raises(SystemExit) as stop:
        main([*sft_flags, "--train_datasets", *(spec.format(**files) for spec in specs)])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and words in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("preference", "texts"), [("0,1", 20), (None, 32)])
def test_a_fixed_preference_trains_on_no_text_it_gives_no_weight(
    sft_flags, tmp_path, preference, texts
):
    specs = []
    for name, count in (("helpful", 12), ("harmless", 20)):
        rows = [{"prompt": "cde", "response": "ab"}] * count
        path = write_lines(tmp_path / f"{name}-texts.jsonl", rows)
        specs.append(f"{name}=supervised:1:{path}")
    flags = [*sft_flags, "--train_datasets", *specs, "--need_eval", "--eval_datasets", *specs]
    flags += ["--fixed_preference", preference] if preference else []
    trainer = sft_trainer(flags)
    assert len(trainer.train_dataloader.dataset) == texts
    assert len(trainer.eval_dataloader.dataset) == 32
