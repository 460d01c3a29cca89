"""Rewards held to labelled pairs."""

from __future__ import annotations

import json
import math

import pytest
import torch

from safe_rlhf_panacea.data import ChatTemplate
from safe_rlhf_panacea.evaluation.agreement import JudgedPairs, judged, main
from safe_rlhf_panacea.io import read_json
from tests.rewards.rows import score_model
from tests.tiny import tiny_llama, tiny_tokenizer

RULES = "safe_rlhf_panacea.reward_functions"
ROWS = [
    {"prompt": "ab", "response_0": "abc", "response_1": "a", "better_long": 0, "better_a": 0},
    {"prompt": "abcd", "response_0": "bb", "response_1": "abbb", "better_long": 1, "better_a": 1},
    {"prompt": "a", "response_0": "ccc", "response_1": "dd", "better_long": 1},
    {"prompt": "abc", "response_0": "ab", "response_1": "ba", "better_a": 1},
]


@pytest.fixture
def policy(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return f"pairs:1:{file}"


def run(policy, data, out, *flags):
    base = ["--model_name_or_path", str(policy), "--datasets", data, "--output_file", str(out)]
    main([*base, "--max_length", "64", "--progress", "false", *flags])


@pytest.mark.parametrize("batch_size", ["1", "3", "16"])
def test_rules_are_right_as_often_as_one_counts(policy, data, tmp_path, capsys, batch_size):
    rewards = ("--reward_models", f"long={RULES}:length", f"a={RULES}:matches?pattern=^a")
    run(policy, data, tmp_path / "out.json", *rewards, "--batch_size", batch_size)
    found = read_json(tmp_path / "out.json")
    # The longer one is labelled so twice of three times; of the pairs labelled by `a` it is the
    # better one twice, and both are as long once.
    assert found["long"]["long"]["accuracy"] == pytest.approx(2 / 3)
    assert found["long"]["a"]["accuracy"] == pytest.approx(2.5 / 3)
    # Both begin with a; only the second does, and is better; neither; only the worse one does.
    assert found["a"]["a"]["accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    margins = [2, 2, -1]  # of the longer one, towards the label
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / 3
    assert found["long"]["long"]["log_loss"] == pytest.approx(loss)
    text = capsys.readouterr().out
    assert "0.667 ± 0.272" in text and "0.693" in text


def for_some(responses, input):
    """Longer is better, after prompts of several letters; nothing otherwise."""
    return [len(r) if len(i) > 1 else None for r, i in zip(responses, input, strict=True)]


def for_none(responses):
    return [None] * len(responses)


def test_pairs_for_which_a_reward_does_not_count_are_left_out(policy, data, tmp_path, capsys):
    rewards = ("--reward_models", f"some={__name__}:for_some", f"long={RULES}:length")
    rewards = (*rewards, "--objectives", "long")
    run(policy, data, tmp_path / "out.json", *rewards)
    found = read_json(tmp_path / "out.json")
    assert [found[name]["long"]["pairs"] for name in ("some", "long")] == [2, 3]
    assert found["some"]["long"]["accuracy"] == 1.0
    with pytest.raises(SystemExit):
        run(policy, data, tmp_path / "none.json", "--reward_models", f"long={__name__}:for_none")
    assert "the reward 'long' counts for both responses of no" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


def test_signs_hold_and_scales_do_not_count(policy, data, tmp_path):
    rewards = ("--reward_models", f"long={RULES}:length", "--reward_signs", "long=-1")
    scaled = ("--reward_scales", "long=7", "--reward_shifts", "long=1e9")
    run(policy, data, tmp_path / "out.json", *rewards, *scaled)
    found = read_json(tmp_path / "out.json")["long"]["long"]
    assert found["accuracy"] == pytest.approx(1 / 3)
    loss = sum(math.log1p(math.exp(margin)) for margin in (2, 2, -1)) / 3
    assert found["log_loss"] == pytest.approx(loss)


def test_a_score_model_reads_both_sequences_as_in_its_training(policy, data, tmp_path):
    torch.manual_seed(0)
    model = score_model(tiny_llama(vocab=len(tiny_tokenizer()), width=16, layers=1)).eval()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    run(policy, data, tmp_path / "out.json", "--reward_models", f"long={tmp_path / 'model'}")
    found = read_json(tmp_path / "out.json")["long"]["long"]
    tokenizer, margins = tiny_tokenizer(), []
    template = ChatTemplate.of("auto", tokenizer)
    for row in ROWS[:3]:
        scores = []
        for answer in (row["response_0"], row["response_1"]):
            ids = torch.tensor([template.conversation_ids(row["prompt"], answer)])
            scores.append(model(ids, attention_mask=torch.ones_like(ids)).end_scores.item())
        better = row["better_long"]
        margins.append(scores[better] - scores[1 - better])
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / 3
    assert found["log_loss"] == pytest.approx(loss, abs=1e-5)
    assert found["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 3)


def test_what_certainty_is_worth_is_what_one_counts_by_hand():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(400, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(-1, 2, (400,), generator=generator).double()
    found = judged(margins, labels)
    bins: dict[int, list[tuple[float, float]]] = {}
    losses = []
    for margin, label in zip(margins.tolist(), labels.tolist(), strict=True):
        if label:
            chance = 1 / (1 + math.exp(-abs(margin)))
            bins.setdefault(min(int((chance - 0.5) * 20), 9), []).append(
                (chance, float(margin * label > 0))
            )
            losses.append(math.log1p(math.exp(-margin * label)))
    total = sum(map(len, bins.values()))
    error = sum(abs(sum(c - r for c, r in rows)) for rows in bins.values()) / total
    assert found["pairs"] == total < 400
    assert found["calibration_error"] == pytest.approx(error)
    assert found["log_loss"] == pytest.approx(sum(losses) / total)
    assert [entry["pairs"] for entry in found["bins"]] == [len(bins[i]) for i in sorted(bins)]
    coin = judged(torch.zeros(10, dtype=torch.float64), torch.ones(10, dtype=torch.float64))
    assert (coin["accuracy"], coin["calibration_error"]) == (0.5, 0.0)
    assert coin["log_loss"] == pytest.approx(math.log(2))
    accuracy = found["accuracy"]
    assert found["standard_error"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / total))


def test_pairs_keep_the_text_of_their_own_rows(data):
    template = ChatTemplate.of("auto", tiny_tokenizer())
    longest = len(template.prompt_ids("abcd"))  # so that the second pair is left out
    pairs = JudgedPairs([data], tiny_tokenizer(longest), ("a",))
    responses = pairs.responses([0, len(pairs) - 1])
    texts = responses.responses(pairs.tokenizer)
    assert [sample["answer"] for sample in responses.examples[:2]] == ["abc", "ab"]
    assert texts == ["ab", "b", "a", "a"]  # better ones, then worse ones, cut


LENGTH = ("--reward_models", f"long={RULES}:length")
LEFT = len(ChatTemplate.of("auto", tiny_tokenizer()).prompt_ids("abc"))  # too long for "abcd"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--reward_models", f"kind={RULES}:length"), "no pair has a label for 'kind'"),
        (("--reward_models", f"a={RULES}:missing"), "missing"),
        (
            (*("--objectives", "long", "a", "--max_length", str(LEFT)), *LENGTH),
            "no pair that is left has a label for 'a'",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, message, policy, tmp_path, capsys):
    rows = [{k: v for k, v in ROWS[1].items() if k != "better_long"}, ROWS[2]]
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(policy, f"pairs:1:{file}", tmp_path / "out.json", *flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out.json").exists()
