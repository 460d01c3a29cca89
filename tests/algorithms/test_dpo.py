"""Panacea-DPO: the loss against a float64 computation, memory, and that it learns a front."""

from __future__ import annotations

import math

import pytest
import torch

from safe_rlhf_panacea.adapter import load_adapter
from safe_rlhf_panacea.algorithms.dpo.trainer import rows_of_pairs
from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.base.losses import diverging_mask
from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.distributed import own_device
from safe_rlhf_panacea.fronts.measurement import agreement, labelled_statistics, towards_labels
from safe_rlhf_panacea.fronts.over_grid import margins_over_grid, over_rows
from safe_rlhf_panacea.preference import preference_grid
from tests.algorithms.conftest import write_lines
from tests.algorithms.helpers import dpo_trainer


def first_batch(trainer):
    return to_device(next(iter(trainer.train_dataloader)), own_device())


def perturb(trainer, seed=0):
    """Random σ and s, so that policy and reference differ and λ matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer.model.module.parameters():
            if parameter.requires_grad and parameter.dim() == 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def loss_at(trainer, batch, preference=None):
    """The loss at λ, size = (B, 2); the centre for all rows if None."""
    if preference is None:
        preference = trainer.panacea.centre.expand(batch["labels"].size(0), -1)
    with trainer.panacea.at(preference, rows_of_pairs(preference)):
        return trainer.loss(**batch)


def test_the_upstream_slice_differs_and_only_by_its_flag(dpo_flags):
    trainer = dpo_trainer(dpo_flags)
    perturb(trainer)
    batch = first_batch(trainer)
    own = loss_at(trainer, batch)["reward_margin"]
    trainer.args = trainer.args.with_(upstream_dpo_slice=True)
    upstream = loss_at(trainer, batch)["reward_margin"]
    assert (own - upstream).abs().max() > 1e-3
    keys = ("better_input_ids", "better_attention_mask", "worse_input_ids", "worse_attention_mask")
    masks = diverging_mask(*(batch[k] for k in keys), upstream_slice=True)
    assert not torch.equal(masks[0], diverging_mask(*(batch[k] for k in keys))[0])


def test_one_backbone_and_only_the_adapter_trains(dpo_flags):
    trainer = dpo_trainer(dpo_flags)
    assert trainer.reference_model is None
    trainable = {n for n, p in trainer.model.module.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    frozen = {
        n: p.detach().clone()
        for n, p in trainer.model.module.named_parameters()
        if not p.requires_grad
    }
    trainer.train()
    for name, parameter in trainer.model.module.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])


def test_it_learns_a_front_from_conflicting_labels(dpo_flags, base_model):
    trainer = dpo_trainer(
        [*dpo_flags, "--max_steps", "40", "--preference_scope", "sample", "--lr", "1e-2"]
    )
    trainer.train()
    trainer.save()
    model, _ = load_pretrained_models(str(base_model), model_max_length=64, padding_side="right")
    adapter = load_adapter(model, trainer.args.output_dir)
    dataset = trainer.train_dataloader.dataset
    grid = preference_grid(2, 0.5)
    rows = range(len(dataset))
    found = over_rows(
        margins_over_grid, model, adapter, dataset, rows, grid, rows=16, progress=False
    )
    accuracies, _, _ = labelled_statistics(agreement(towards_labels(*found)))
    harmless_first, _, helpful_first = accuracies
    assert helpful_first[0] > 0.95 and helpful_first[1] < 0.05
    assert harmless_first[1] > 0.95 and harmless_first[0] < 0.05


def test_orthogonality_penalty_enters_the_loss(dpo_flags):
    trainer = dpo_trainer([*dpo_flags, "--orthogonality_coeff", "0.25"])
    batch = first_batch(trainer)
    with_penalty = loss_at(trainer, batch)["loss"].item()
    penalty = trainer.panacea.policy.orthogonality().item()
    assert penalty > 1
    assert with_penalty == pytest.approx(math.log(2) + 0.25 * penalty, rel=1e-5)


@pytest.fixture
def one_label_each(tmp_path):
    """Twelve pairs labelled for helpful, twenty for harmless."""
    rows = []
    for row in range(32):
        label = {"better_helpful" if row < 12 else "better_harmless": row % 2}
        rows.append({"prompt": "cde", "response_0": "aa", "response_1": "bb", **label})
    return f"pairs:1:{write_lines(tmp_path / 'one-label-each.jsonl', rows)}"


@pytest.mark.parametrize(("preference", "pairs_left"), [("0,1", 20), ("0.5,0.5", 32), (None, 32)])
def test_a_fixed_preference_trains_on_no_pair_it_gives_no_weight(
    dpo_flags, one_label_each, preference, pairs_left
):
    flags = [*dpo_flags, "--train_datasets", one_label_each]
    flags += ["--fixed_preference", preference] if preference else []
    flags += ["--need_eval", "--eval_datasets", one_label_each]
    trainer = dpo_trainer(flags)
    assert len(trainer.train_dataloader.dataset) == pairs_left
    assert len(trainer.eval_dataloader.dataset) == 32


def test_a_data_set_for_each_objective_is_trained_as_labelled_pairs_are(dpo_flags, tmp_path):
    asked = [{"role": "user", "content": "cd"}]
    helpful = [{"prompt": asked, "chosen": "aaa", "rejected": "b" * n} for n in range(1, 9)]
    harmless = [{"chosen": f"ef {'b' * n}", "rejected": "ef aaa"} for n in range(1, 9)]
    files = {
        "helpful": write_lines(tmp_path / "helpful.jsonl", helpful),
        "harmless": write_lines(tmp_path / "harmless.jsonl", harmless),
    }
    rows = [
        {"prompt": prompt, "response_0": "aaa", "response_1": "b" * n, label: better}
        for prompt, label, better in [("cd", "better_helpful", 0), ("ef", "better_harmless", 1)]
        for n in range(1, 9)
    ]
    labelled = write_lines(tmp_path / "labelled.jsonl", rows)
    start = dpo_flags.index("--objectives")
    flags = [*dpo_flags[:start], *dpo_flags[start + 3 :]]  # the data names the objectives
    named = dpo_trainer([*flags, "--train_datasets", *(f"{k}={v}" for k, v in files.items())])
    flags = [*dpo_flags, "--train_datasets", f"pairs:1:{labelled}", "--output_dir"]
    plain = dpo_trainer([*flags, str(tmp_path / "plain")])
    assert named.panacea.objectives == plain.panacea.objectives
    for one, other in zip(named.train_dataloader, plain.train_dataloader, strict=True):
        for field in ("better_input_ids", "worse_input_ids", "labels", "prompt_length"):
            assert torch.equal(one[field], other[field])
        assert loss_at(named, one)["loss"] == loss_at(plain, other)["loss"]
