"""Reward models from their addresses: score models, and transformers' classifiers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.rewards.ensemble import RewardModel
from safe_rlhf_panacea.rewards.functions import FunctionReward
from safe_rlhf_panacea.rewards.loading import RewardLoading, load_rewards
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.spec import RewardSpec, reward_specs
from tests.rewards.rows import EOS, padded_rows, reversed_tokenizer, score_model
from tests.tiny import tiny_llama, tiny_tokenizer

LABELS = {0: "toxic", 1: "kind"}
KINDS = {
    "bert": (BertConfig, BertForSequenceClassification),
    "llama": (LlamaConfig, LlamaForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
}
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}


def write_classifier(folder, kind, tokenizer, labels=LABELS):
    config, model = KINDS[kind]
    torch.manual_seed(3)
    own = config(
        vocab_size=len(tokenizer),
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label=labels,
        initializer_range=0.5,
        **SIZE,
    )
    model(own).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(*addresses, policy=None):
    specs = reward_specs([(f"r{i}", address) for i, address in enumerate(addresses)])
    return load_rewards(specs, policy or tiny_tokenizer(), (EOS,), RewardLoading(32))


def alone(folder, kind, rows):
    """The logits of each row, read without padding, in float64, size = (B, D)."""
    found = []
    model = KINDS[kind][1].from_pretrained(folder).double().eval()
    for row in rows:
        with torch.no_grad():
            found.append(model(torch.tensor([row])).logits[0])
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_one_classifier_serves_two_objectives_and_runs_once(kind, tmp_path):
    """Also one that counts positions from the first column, which the policy pads."""
    folder = write_classifier(tmp_path / "model", kind, tiny_tokenizer())
    rewards = load(f"{folder}#kind", f"{folder}#0")
    (model,) = rewards.models
    assert model.reads_policy_tokens and rewards.for_critic is None
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    responses = padded_rows(tiny_tokenizer())
    found = rewards(responses)
    assert len(calls) == 1
    rows = [[9, 10, 12, 13, 2], [11, 14, 15, 16, 17]]
    expected = alone(folder, kind, rows)[:, [1, 0]]
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert (expected[:, 0] - expected[:, 1]).abs().min() > 0.01


@pytest.mark.parametrize("other_tokens", [True, False])
def test_a_causal_classifier_is_padded_as_its_configuration_says(other_tokens, tmp_path):
    """It looks for the last token that is not padding, and may mean another than its tokenizer."""
    own = reversed_tokenizer() if other_tokens else tiny_tokenizer()
    folder = write_classifier(tmp_path / "model", "llama", own, {0: "only"})
    config = read_json(folder / "config.json")
    atomic_write_json(folder / "config.json", {**config, "pad_token_id": own.unk_token_id})
    rows = padded_rows(tiny_tokenizer())
    ids, mask = rows.input_ids[:, :5].clone(), rows.attention_mask[:, :5].clone()
    ids[1, 3:], mask[1, 3:] = 0, False
    found = load(str(folder))(Responses(ids, mask, 2))
    expected = alone(folder, "llama", [own(text)["input_ids"] for text in ("abde</s>", "cf")])
    assert torch.allclose(found.double(), expected, atol=1e-5)


def with_ends(own):
    """The tokenizer, which writes the end token behind every text itself, as RoBERTa's."""
    ends = [("<s>", own.bos_token_id), ("</s>", own.eos_token_id)]
    form = processors.TemplateProcessing("<s> $A </s>", None, ends)
    own.backend_tokenizer.post_processor = form
    return own


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("bert", ("abde</s>", "cfghi")),
        ("no end token", ("abde", "cfghi")),
        ("roberta", ("abde", "cfghi")),
    ],
)
def test_a_classifier_with_other_tokens_reads_the_text(kind, texts, tmp_path):
    """With its own end token behind a response that ended, if it has one, and no second one."""
    own = reversed_tokenizer()
    if kind == "no end token":
        kind, own.eos_token = "bert", None
    elif kind == "roberta":
        own = with_ends(own)
    folder = write_classifier(tmp_path / "model", kind, own, {0: "only"})
    rewards = load(str(folder))
    assert not rewards.models[0].reads_policy_tokens
    assert len(rewards.models[0].own_tokenizer) == len(own)
    expected = alone(folder, kind, [own(text)["input_ids"] for text in texts])
    assert torch.allclose(rewards(padded_rows(tiny_tokenizer())).double(), expected, atol=1e-5)


def test_a_text_beyond_the_positions_is_cut(tmp_path):
    """RoBERTa has fewer than its configuration says."""
    own = with_ends(reversed_tokenizer())
    write_classifier(tmp_path, "roberta", own, {0: "only"})
    weights = RobertaForSequenceClassification.from_pretrained(tmp_path)
    table = weights.roberta.embeddings.position_embeddings
    table.weight.data = table.weight.data[:9]
    weights.config.max_position_embeddings = 9
    weights.save_pretrained(tmp_path)
    ids = tiny_tokenizer()("abcdefghij", add_special_tokens=False)["input_ids"]
    responses = Responses(torch.tensor([ids]), torch.ones(1, len(ids)).bool(), 2)
    expected = alone(tmp_path, "roberta", [own("abcdefghij")["input_ids"][:8]])
    assert torch.allclose(load(str(tmp_path))(responses).double(), expected, atol=1e-5)


def test_a_classifier_of_the_policys_tokens_needs_positions_for_all(tmp_path):
    folder = write_classifier(tmp_path / "model", "bert", tiny_tokenizer(), {0: "only"})
    specs = reward_specs([("r", str(folder))])
    with pytest.raises(UserError, match=r"makes 65 tokens, and .* has 64 positions"):
        load_rewards(specs, tiny_tokenizer(), (EOS,), RewardLoading(65))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("#rude", "has no label 'rude'; it has toxic, kind"),
        ("#2", "has no label '2'; it has toxic, kind"),
        ("", r"has 2 labels, toxic, kind: say which one is r0, as r0=\S+#toxic"),
    ],
)
def test_a_label_that_is_not_there(label, message, tmp_path):
    folder = write_classifier(tmp_path / "model", "bert", tiny_tokenizer())
    with pytest.raises(UserError, match=message):
        load(f"{folder}{label}")


def test_a_score_model_needs_no_label(tmp_path):
    model = score_model(tiny_llama(vocab=len(tiny_tokenizer()), width=16, layers=1))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    rewards = load(str(tmp_path), f"{tmp_path}#0")
    assert len(rewards.models) == 1
    assert rewards.for_critic is rewards.models[0]
    found = rewards(padded_rows(tiny_tokenizer()))
    assert torch.equal(found[:, 0], found[:, 1])
    with pytest.raises(UserError, match="has no label '1'; it has 0"):
        load(f"{tmp_path}#1")


def test_a_classifier_is_read_from_safetensors_only(tmp_path):
    folder = write_classifier(tmp_path / "model", "bert", tiny_tokenizer(), {0: "only"})
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(str(folder))


def test_a_folder_may_have_the_mark_of_a_label_in_its_name(tmp_path):
    (tmp_path / "a#b").mkdir()
    spec = RewardSpec("r", str(tmp_path / "a#b"))
    assert (spec.model_path, spec.label) == (spec.path, None)
    spec = RewardSpec("r", f"{tmp_path / 'a#b'}#c")
    assert (spec.model_path, spec.label) == (str(tmp_path / "a#b"), "c")


def test_a_model_in_memory_that_is_no_classifier_is_refused_whoever_loads():
    """A trainer's own loading, as PPO's, is for folders."""
    model = LoadedModel(tiny_llama(), tiny_tokenizer())
    with pytest.raises(UserError, match="is one for sequence classification"):
        load_rewards(
            [RewardSpec("r", model)],
            tiny_tokenizer(),
            (EOS,),
            RewardLoading(32),
            lambda path, role: pytest.fail(f"was asked for {path}"),
        )


def test_a_model_in_memory_has_its_own_name_in_messages_and_records():
    model = LoadedModel(tiny_llama(), tiny_tokenizer())
    assert "a LlamaForCausalLM in memory" in str(RewardSpec("r", model))
    with pytest.raises(UserError, match="are the same model, a LlamaForCausalLM in memory"):
        reward_specs([("one", model), ("other", model)])


@pytest.mark.parametrize(
    ("ends", "texts", "lengths"),
    [("", ("abde</s>", "cfghi"), [2.0, 4.0]), ("i", ("abde</s>", "cfghi</s>"), [2.0, 3.0])],
)
def test_another_tokenizer_scores_the_same_text(ends, texts, lengths):
    """A model whose ids run backwards gives what it gives to the text itself, ended by its own
    end token wherever one of the policy's ends it."""
    policy, own = tiny_tokenizer(), reversed_tokenizer()
    stops = (EOS, *map(policy.convert_tokens_to_ids, ends))
    torch.manual_seed(0)
    model = score_model(tiny_llama(vocab=len(own), width=16, layers=1))
    responses = padded_rows(policy)
    scores = RewardModel("", model, own, policy, stops, is_classifier=False).scores(responses)
    for row, text in enumerate(texts):
        encoded = own(text, return_tensors="pt", return_token_type_ids=False)
        alone = model(encoded["input_ids"], attention_mask=encoded["attention_mask"].bool())
        assert scores[row].item() == pytest.approx(alone.end_scores.item(), abs=1e-6)
    mistaken = RewardModel("", model, policy, policy, stops, is_classifier=False)
    as_if_same = mistaken.scores(padded_rows(policy))
    assert not torch.allclose(scores, as_if_same, atol=1e-4)  # else the test shows nothing
    found = FunctionReward(lambda response_lengths: response_lengths, policy, stops)(responses)
    assert found.tolist() == lengths


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
