"""An update is one, however its rows are split: its gradients against float64 over all rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from safe_rlhf_panacea.base import finetune
from safe_rlhf_panacea.base.engine import by_update
from safe_rlhf_panacea.base.setup import prepare_run
from safe_rlhf_panacea.base.supervised import RewardTrainer, SupervisedFinetuneTrainer
from safe_rlhf_panacea.base.values import reward
from tests.algorithms import plain_ppo as plain
from tests.algorithms.conftest import write_lines
from tests.algorithms.helpers import dpo_trainer, grpo_trainer, ppo_trainer, sft_trainer
from tests.algorithms.test_dpo import perturb
from tests.algorithms.test_ppo_numbers import (
    close,
    expected_losses,
    plain_name,
    rolled_out,
    trained_parameters,
    watch_gradients,
    wobble,
)
from tests.algorithms.test_sft import negative_log_likelihood

PARTS = ("input_ids", "attention_mask")
# Five rows: in one micro-batch, and in three of which one is short.
SPLITS = pytest.mark.parametrize(("rows", "accumulated"), [(5, 1), (2, 3)])
WAYS = pytest.mark.parametrize(
    ("method", "scope", "rows", "accumulated"),
    [
        *(("ls", "sample", 5, 1), ("tche", "batch", 5, 1)),
        *(("ls", "batch", 2, 3), ("tche", "sample", 2, 3)),
    ],
)


def split(rows, accumulated):
    """Flags of two updates, each of all five rows."""
    return [
        *("--per_device_train_batch_size", str(rows), "--max_steps", str(2 * accumulated)),
        *("--gradient_accumulation_steps", str(accumulated)),
    ]


@pytest.fixture
def sparse(tmp_path):
    """Five pairs of different lengths, of which one has a label for harmless."""
    rows = [
        {
            "prompt": f"c{'d' * i}",
            "response_0": "a" * (i + 1),
            "response_1": "b" * (5 - i),
            "better_helpful": i % 2,
            "better_harmless": 1 if i == 2 else None,
        }
        for i in range(5)
    ]
    return write_lines(tmp_path / "sparse.jsonl", rows)


@pytest.fixture
def uneven(tmp_path):
    """Five texts whose answers have 2 to 30 tokens."""
    rows = [{"prompt": "cd"[: 1 + i % 2], "response": "ab" * 3**i} for i in range(3)]
    rows += [{"prompt": "e", "response": letter} for letter in "ab"]
    return write_lines(tmp_path / "uneven.jsonl", rows)


def two_updates(trainer):
    """A run of two updates.

    Of each: the weights before it, those that are trained, the batches that it used, their λ, its
    gradients, the logged lines.
    """
    gradients, panacea = watch_gradients(trainer.model), getattr(trainer, "panacea", None)
    used, weights, drawn, logged = [], [], [], []
    step, trainer.logger.log = trainer.train_step, lambda info, step: logged.append(info)

    def train_step(**batch):
        used.append(batch)
        weights.append(tensors_of(trainer))
        return step(**batch)

    trainer.train_step = train_step
    if panacea is not None:
        draw = panacea.draw
        panacea.draw = lambda *args, **named: drawn.append(draw(*args, **named)) or drawn[-1]
    trainer.train()
    assert len(gradients) == 2
    size, found = len(used) // 2, []
    for place, gradient in zip((slice(0, size), slice(size, None)), gradients, strict=True):
        parts = {"used": used[place], "drawn": drawn[place], "logged": logged[place]}
        tensors, trained = weights[place][0]
        parts |= {"tensors": tensors, "trained": trained, "gradients": gradient}
        found.append(SimpleNamespace(**parts))
    before, after = (one.tensors[found[0].trained[0]] for one in found)
    assert not torch.equal(before, after)
    return found


def rows_of(batches, *names):
    """The rows of all batches, each without its padding: (ids, labels, …) by name."""
    for batch in batches:
        yield from zip(*(batch[name] for name in names), strict=True)


def tensors_of(trainer):
    """All weights in float64, those that are trained with gradients, and the names of these."""
    named = dict(trainer.model.module.named_parameters())
    tensors = plain.doubled(named)
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    for name in trained:
        tensors[name].requires_grad_()
    return tensors, trained


def hold(update, loss, logged=True):
    """The gradients of an update to those of a loss, and its logged lines to that."""
    expected = torch.autograd.grad(loss, [update.tensors[name] for name in update.trained])
    close(update.gradients, expected, update.trained)
    if logged:
        values = [info["train/loss"] for info in update.logged]
        assert sum(values) / len(values) == pytest.approx(loss.item(), abs=1e-5)


@SPLITS
def test_finetune(base_model, uneven, tmp_path, rows, accumulated):
    args = finetune.parse_arguments(
        [
            *("--model_name_or_path", str(base_model), "--output_dir", str(tmp_path / "out")),
            *("--train_datasets", f"supervised:1:{uneven}", "--max_length", "64"),
            *("--log_type", "none", "--progress", "false", *split(rows, accumulated)),
        ]
    )
    for update in two_updates(SupervisedFinetuneTrainer(args, prepare_run(args)[0])):
        total, tokens = 0, 0
        for ids, labels, mask in rows_of(update.used, "input_ids", "labels", "attention_mask"):
            kept = mask.bool()
            loss, count = negative_log_likelihood(update.tensors, ids[kept], labels[kept])
            total, tokens = total + loss, tokens + count
        hold(update, total / tokens)


@SPLITS
def test_reward(base_model, sparse, tmp_path, rows, accumulated):
    args = reward.parse_arguments(
        [
            *("--model_name_or_path", str(base_model), "--output_dir", str(tmp_path / "out")),
            *("--train_datasets", f"pairs:1:{sparse}", "--max_length", "64"),
            *("--objective", "helpful", "--regularization", "0.1"),
            *("--log_type", "none", "--progress", "false", *split(rows, accumulated)),
        ]
    )
    names = [f"{side}_{what}" for side in ("better", "worse") for what in PARTS]
    for update in two_updates(RewardTrainer(args, prepare_run(args)[0])):
        losses, squares, tensors = [], [], update.tensors
        head, bias = tensors["score_head.weight"][0], tensors.get("score_head.bias", 0)
        for better, its_mask, worse, other_mask in rows_of(update.used, *names):
            both = [better[its_mask.bool()], worse[other_mask.bool()]]
            ends = [plain.hidden_states(tensors, ids)[-1] for ids in both]
            scores = [(end @ head + bias).squeeze() for end in ends]
            losses.append(-F.logsigmoid(scores[0] - scores[1]))
            squares += [score**2 for score in scores]
        assert len(losses) == 5
        hold(update, sum(losses) / 5 + 0.1 * sum(squares) / 10, logged=False)


def aggregated(losses, labelled, preference, method, scope):
    """Eq. 6 or 7 of the mean losses, or of each row's, by hand; all of size (B, m)."""
    weighted = losses * preference
    if method == "tche" and scope == "sample":
        rows = [values[on].max() for values, on in zip(weighted, labelled, strict=True)]
        return sum(rows) / len(rows)
    means = [
        weighted[labelled[:, i], i].mean() for i in range(labelled.size(1)) if labelled[:, i].any()
    ]
    return sum(means) if method == "ls" else max(means)


def total_log_prob(weights, ids):
    """Σ log π of all tokens but the first; what two responses begin with cancels in a margin."""
    predicted = (plain.hidden_states(weights, ids) @ weights["lm_head.weight"].T).log_softmax(-1)
    return predicted[range(len(ids) - 1), ids[1:]].sum()


def pair_losses(update):
    """-log σ(±Δ) of every pair, size = (B, m), its labels and its λ."""
    tensors = update.tensors
    base = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    found, labels, preferences = [], [], torch.cat(update.drawn).double()
    names = [f"{side}_{what}" for side in ("better", "worse") for what in PARTS]
    rows = rows_of(update.used, *names, "labels")
    for preference, (better, its_mask, worse, other_mask, label) in zip(
        preferences, rows, strict=True
    ):
        composed = plain.at_preference(base, tensors, preference)
        ratios = [
            total_log_prob(composed, ids) - total_log_prob(base, ids)
            for ids in (better[its_mask.bool()], worse[other_mask.bool()])
        ]
        margin = 0.1 * (ratios[0] - ratios[1])
        found.append(-F.logsigmoid(label * margin))
        labels.append(label != 0)
    return torch.stack(found), torch.stack(labels), preferences


@WAYS
def test_dpo(dpo_flags, sparse, method, scope, rows, accumulated):
    trainer = dpo_trainer(
        [
            *(*dpo_flags, "--train_datasets", f"pairs:1:{sparse}", "--aggregation", method),
            *("--preference_scope", scope, *split(rows, accumulated)),
        ]
    )
    perturb(trainer)
    for update in two_updates(trainer):
        losses, labelled, preference = pair_losses(update)
        assert labelled.sum(dim=0).tolist() == [5, 1]
        hold(update, aggregated(losses, labelled, preference, method, scope))
        # Nothing is said of an objective that a batch does not label.
        there = [bool(batch["labels"][:, 1].any()) for batch in update.used]
        for what in ("loss", "accuracy"):
            assert ["train/" + what + "_harmless" in info for info in update.logged] == there
            assert all("train/" + what + "_helpful" in info for info in update.logged)
        (own,) = filter(None, (info.get("train/loss_harmless") for info in update.logged))
        assert own == pytest.approx(losses[labelled[:, 1], 1].item(), abs=1e-5)


@WAYS
def test_sft(sft_flags, uneven, tmp_path, method, scope, rows, accumulated):
    other = write_lines(tmp_path / "one.jsonl", [{"prompt": "cd", "response": "b" * 20}])
    four = f"helpful=supervised:4/-1:{uneven}"
    data = ["--train_datasets", four, f"harmless=supervised:1:{other}", "--aggregation", method]
    data += ["--preference_scope", scope]
    trainer = sft_trainer([*sft_flags, *data, *split(rows, accumulated)])
    perturb(trainer)
    names = ("input_ids", "labels", "attention_mask", "labelled")
    for update in two_updates(trainer):
        base = {name: t for name, t in update.tensors.items() if ".lora_" not in name}
        found, labelled = [], []
        preferences = torch.cat(update.drawn).double()
        for preference, (ids, labels, mask, counts_for) in zip(
            preferences, rows_of(update.used, *names), strict=True
        ):
            composed, kept = plain.at_preference(base, update.tensors, preference), mask.bool()
            found.append(negative_log_likelihood(composed, ids[kept], labels[kept])[0])
            labelled.append(counts_for)
        labelled = torch.stack(labelled)
        assert labelled.sum(dim=0).tolist() == [4, 1]
        losses = torch.stack(found)[:, None].expand(-1, 2)
        hold(update, aggregated(losses, labelled, preferences, method, scope))
        (own,) = filter(None, (info.get("train/loss_harmless") for info in update.logged))
        assert own == pytest.approx(losses[labelled[:, 1], 1].item(), abs=1e-4)


def test_ppo_whitens_and_averages_over_an_update(ppo_flags, uneven, weights, tmp_path):
    """Micro-batches of two prompts and of one, with texts of different lengths."""
    prompts = write_lines(tmp_path / "p.jsonl", [{"prompt": "cde"[:n]} for n in (1, 2, 3)])
    trainer = ppo_trainer(
        [
            *(*ppo_flags, "--train_datasets", f"prompts:1:{prompts}", "--max_length", "24"),
            *("--ptx_datasets", f"supervised:1:{uneven}", "--ptx_coeff", "3"),
            *("--kl_coeff", "0.3", "--clip_range_score", "0.4", "--clip_range_ratio", "0.1"),
            *("--clip_range_value", "0.05", "--whiten_advantages", "--max_steps", "2"),
            *("--per_device_prompt_batch_size", "4", "--per_device_train_batch_size", "2"),
            *("--gradient_accumulation_steps", "2"),
        ]
    )
    wobble(trainer)
    engines = trainer.actor_model, trainer.reward_critic_model
    noted = [watch_gradients(engine) for engine in engines]
    actor, critic = map(trained_parameters, engines)
    batches, texts = [], []
    for name, kept in (("rl_step", batches), ("ptx_step", texts)):
        step = getattr(trainer, name)
        setattr(trainer, name, lambda b, s=step, k=kept: k.append(b) or s(b))
    trainer.train()
    assert [len(batch["reward"]) for batch in batches] == [2, 1]
    parts = [rolled_out(batch, actor, critic, weights, "ls") for batch in batches]
    names = ("rows", "old", "reference", "values", "reward")
    whole = {name: [row for part in parts for row in getattr(part, name)] for name in names}
    losses = expected_losses(SimpleNamespace(**whole), actor, critic, weights, True)
    tokens = [(text["labels"][:, 1:] != -100).sum() for text in texts]
    assert tokens[0] != tokens[1]
    text = sum(
        n * plain.text_loss(weights.base, actor, batch, batches[0]["preference"][0])
        for n, batch in zip(tokens, texts, strict=True)
    ) / sum(tokens)
    total = (losses[0] + 3 * text) / 2  # of two backward passes, the mean
    close(noted[0][0], torch.autograd.grad(total, list(actor.values())), list(actor))
    renamed = {plain_name(name): gradient for name, gradient in noted[1][0].items()}
    close(renamed, torch.autograd.grad(losses[1], list(critic.values())), list(critic))
    # The actor accumulates twice as many passes, for the texts; the record has what was given.
    record = json.loads((tmp_path / "out" / "run.json").read_text())["args"]
    assert engines[0].gradient_accumulation_steps() == 4
    assert record["gradient_accumulation_steps"] == trainer.args.gradient_accumulation_steps == 2


@pytest.mark.parametrize("prompt_batch", [4, 2])
def test_grpo_takes_the_prompts_that_fill_whole_updates(grpo_flags, tmp_path, prompt_batch):
    """Of six prompts four make an update; in prompt batches of two, two of them do."""
    letters = [{"prompt": letter} for letter in "cdefgh"]
    prompts = write_lines(tmp_path / "six.jsonl", letters)
    trainer = grpo_trainer(
        [
            *(*grpo_flags, "--train_datasets", f"prompts:1:{prompts}", "--max_steps", "4"),
            *("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"),
            *("--per_device_prompt_batch_size", str(prompt_batch)),
        ]
    )
    step, seen = trainer.rl_step, []
    trainer.rl_step = lambda batch: seen.append(batch) or step(batch)
    trainer.train()
    assert (trainer.steps_per_epoch, trainer.epoch) == (2, 1)
    assert [len(batch["reward"]) for batch in seen] == [8] * 4
    for update in (seen[:2], seen[2:]):
        tokens = [batch["attention_mask"][:, batch["prompt"].size(1) :].sum() for batch in update]
        assert all(batch["tokens"] == sum(tokens) / 2 for batch in update)
        assert len(torch.cat([batch["preference"] for batch in update]).unique(dim=0)) == 1


@pytest.mark.parametrize(
    ("steps", "begun", "passes", "parts"),
    [(5, 0, 1, [3, 2]), (5, 1, 1, [2, 3]), (1, 2, 1, [1]), (4, 2, 2, [2, 2]), (0, 0, 1, [])],
)
def test_steps_are_cut_where_updates_end(steps, begun, passes, parts):
    engine = SimpleNamespace(micro_steps=begun, gradient_accumulation_steps=lambda: 3 * passes)
    assert list(map(len, by_update(list(range(steps)), engine, passes))) == parts
