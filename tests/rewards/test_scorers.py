"""Rewards from models with other tokens, and from functions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea.base import AutoModelForScore
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble, RewardModel
from safe_rlhf_panacea.rewards.functions import FunctionReward, is_function
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.spec import RewardSpec
from tests.tiny import tiny_llama, tiny_tokenizer

EOS = 2  # of `tiny_tokenizer`
CONCISE = "safe_rlhf_panacea.reward_functions:concise"


def padded_rows(tokenizer):
    """Prompts "ab" and "c" on the left, responses "de" + eos and "fghi" without an end."""
    ids = tokenizer.convert_tokens_to_ids
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows = [[*map(ids, "ab"), *map(ids, "de"), eos, pad], [pad, ids("c"), *map(ids, "fghi")]]
    mask = [[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]
    return Responses(torch.tensor(rows), torch.tensor(mask).bool(), 2)


def describe(prompts, responses, response_lengths, factor=1.0):
    """A reward that shows what it was given."""
    assert prompts == ["ab", "c"]
    assert responses == ["de", "fghi"]
    return [factor * length for length in response_lengths.tolist()]


RETURNED = {  # for two responses
    "too_many": [0.0, 1.0, 2.0],
    "one_number": 1.0,
    "nothing": None,
    "infinite": [0.0, float("inf")],
    "beyond_single_precision": [0.0, 1e300],
    "huge": [0.0, 10**400],
    "not_a_number": torch.tensor([float("nan"), 0.0]),
    "texts": [1.0, "2.0"],
    "ragged": [[1.0], [1.0, 2.0]],
    "complex_numbers": torch.tensor([1j, 1.0]),
    "a_dictionary": {"a": 1.0},
}
for _name, _value in RETURNED.items():
    globals()[_name] = lambda responses, _value=_value: _value


def other_names(texts, scores=None):
    return [0.0] * len(texts)


def by_place(responses, /):
    return [0.0] * len(responses)


def anything(responses, *rest, weight=1.0, **more):
    return [weight] * len(responses)


def test_a_function_sees_prompts_responses_and_lengths():
    tokenizer = tiny_tokenizer()
    score = FunctionReward(f"{__name__}:describe?factor=10", tokenizer, (EOS,))
    assert score(padded_rows(tokenizer)).tolist() == [20.0, 40.0]  # eos and pads not counted


def test_signs_scales_and_shifts_apply_to_functions():
    tokenizer = tiny_tokenizer()
    path = f"{CONCISE}?max_length=2,max_reward=0"
    spec = RewardSpec("concise", path, sign=-1.0, scale=3.0, shift=1.0)
    assert spec.is_function
    ensemble = RewardEnsemble([spec], [FunctionReward(path, tokenizer, (EOS,))])
    # raw 0 and -1, minus 1, times -3
    rewards = ensemble(padded_rows(tokenizer))
    assert rewards.tolist() == [[3.0], [6.0]]
    assert ensemble.raw(rewards).tolist() == [[0.0], [-1.0]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_many", r"returned shape \(3,\) for 2 responses"),
        ("one_number", r"returned shape \(\)"),
        ("nothing", "returned a NoneType; one number or None per response is wanted"),
        ("infinite", "not finite: inf in row 1"),
        ("beyond_single_precision", "not finite: inf in row 1"),
        ("huge", "returned a list; one number"),
        ("not_a_number", "not finite: nan in row 0"),
        ("texts", "returned '2.0' in row 1"),
        ("ragged", r"returned \[1.0\] in row 0"),
        ("complex_numbers", "complex numbers"),
        ("a_dictionary", "returned a dict"),
    ],
)
def test_what_a_function_returns_is_checked(name, message):
    tokenizer = tiny_tokenizer()
    score = FunctionReward(f"{__name__}:{name}", tokenizer, (EOS,))
    with pytest.raises(UserError, match=message) as caught:
        score(padded_rows(tokenizer))
    assert f"{__name__}:{name} returned" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{__name__}:by_place", "responses must be an argument that can be given by name"),
        (f"{__name__}:describe?factor=nan", "'factor=nan' is not finite"),
        ("builtins:dict", "does not say which arguments it takes"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_once(path, message):
    with pytest.raises(UserError, match=message):
        FunctionReward(path, tiny_tokenizer(), (EOS,))


def test_a_function_may_take_more_than_is_given():
    tokenizer = tiny_tokenizer()
    score = FunctionReward(f"{__name__}:anything?weight=3", tokenizer, (EOS,))
    assert score(padded_rows(tokenizer)).tolist() == [3.0, 3.0]


def test_a_path_is_a_function_only_by_its_form(tmp_path, monkeypatch):
    assert is_function("module:name") and is_function("a.b.c:name?x=1,y=2")
    for path in ("runs/reward", "PKU-Alignment/beaver-7b-v1.0-reward", "reward", "a/b:c"):
        assert not is_function(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:folder").mkdir()
    assert not is_function("odd:folder")


def test_another_tokenizer_scores_the_same_text():
    """A reward model whose ids run backwards must give what it gives to the text itself."""
    policy, own = tiny_tokenizer(), reversed_tokenizer()
    torch.manual_seed(0)
    backbone = tiny_llama(vocab=len(own), width=16, layers=1)
    model = score_model(backbone)
    responses = padded_rows(policy)
    scores = RewardModel("path", model, own, policy, (EOS,), is_classifier=False).scorer(0)(
        responses
    )
    for row, text in enumerate(("abde</s>", "cfghi")):
        encoded = own(text, return_tensors="pt", return_token_type_ids=False)
        alone = model(encoded["input_ids"], attention_mask=encoded["attention_mask"].bool())
        assert scores[row].item() == pytest.approx(alone.end_scores.item(), abs=1e-6)
    mistaken = RewardModel("path", model, policy, policy, (EOS,), is_classifier=False)
    as_if_same = mistaken.scorer(0)(padded_rows(policy))
    assert not torch.allclose(scores, as_if_same, atol=1e-4)  # else the test shows nothing


def test_any_of_the_policys_end_tokens_ends_a_response():
    """With "i" for a second end token, a model of other tokens reads its own end after it."""
    policy, own = tiny_tokenizer(), reversed_tokenizer()
    stops = (EOS, policy.convert_tokens_to_ids("i"))
    torch.manual_seed(0)
    model = score_model(tiny_llama(vocab=len(own), width=16, layers=1))
    responses = padded_rows(policy)
    scores = RewardModel("path", model, own, policy, stops, is_classifier=False).scorer(0)(
        responses
    )
    for row, text in enumerate(("abde</s>", "cfghi</s>")):
        encoded = own(text, return_tensors="pt", return_token_type_ids=False)
        alone = model(encoded["input_ids"], attention_mask=encoded["attention_mask"].bool())
        assert scores[row].item() == pytest.approx(alone.end_scores.item(), abs=1e-6)
    lengths = FunctionReward(f"{__name__}:lengths", policy, stops)(responses)
    assert lengths.tolist() == [2.0, 3.0]


def lengths(response_lengths):
    return response_lengths


def own_conversations(tokenizer, *, is_classifier):
    """What a model with other tokens is given where the turns are known, as text."""
    seen = []

    class Reader(torch.nn.Module):
        def forward(self, ids, attention_mask):
            rows = zip(ids, attention_mask.bool(), strict=True)
            seen.extend(tokenizer.decode(row[kept]) for row, kept in rows)
            scores = torch.zeros(len(ids), 1)
            return SimpleNamespace(end_scores=scores, logits=scores)

    policy = tiny_tokenizer()
    rows = padded_rows(policy)
    examples = [{"input": "x1"}, {"input": ["y", "z", "w"], "system": "s"}]
    responses = Responses(rows.input_ids, rows.attention_mask, 2, examples)
    model = RewardModel("", Reader(), tokenizer, policy, (EOS,), is_classifier=is_classifier)
    model.scores(responses)
    return seen


@pytest.mark.parametrize("is_classifier", [False, True])
def test_a_model_with_other_tokens_reads_the_turns_in_its_own_template(is_classifier):
    own = reversed_tokenizer()
    own.chat_template = (
        "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}a: {% endif %}"
    )
    assert own_conversations(own, is_classifier=is_classifier) == [
        "u: x1</s>a: de</s>",
        "s: s</s>u: y</s>a: z</s>u: w</s>a: fghi",  # was cut off
    ]


def test_a_classifier_without_a_template_reads_the_turns_line_by_line():
    found = own_conversations(reversed_tokenizer(), is_classifier=True)
    assert found == ["x1\nde</s>", "y\nz\nw\nfghi"]


def score_model(language_model):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        language_model.save_pretrained(folder)
        model = AutoModelForScore.from_pretrained(folder, fresh_head=True)
    torch.nn.init.normal_(model.score_head.weight)
    return model.eval()


def reversed_tokenizer():
    """``tiny_tokenizer`` with all but the special tokens numbered backwards."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    last = len(vocabulary) - 1
    state["model"]["vocab"] = {
        token: index if index < 4 else last + 4 - index for token, index in vocabulary.items()
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
    )
