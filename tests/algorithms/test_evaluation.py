"""Fronts of trained adapters: all λ in one pass equal λ by λ, and the program that makes them."""

from __future__ import annotations

import json

import pytest
import torch

from safe_rlhf_panacea.algorithms.dpo.main import main as dpo_main
from safe_rlhf_panacea.base.generation import SamplingConfig
from safe_rlhf_panacea.baselines.discrete_policies import main as discrete_main
from safe_rlhf_panacea.baselines.rewarded_soups import main as soups_main
from safe_rlhf_panacea.evaluation.accuracy_front import margins_over_grid
from safe_rlhf_panacea.evaluation.main import main as evaluate
from safe_rlhf_panacea.evaluation.reward_front import evaluate_reward_front
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.preference import preference_grid
from tests.algorithms.helpers import dpo_trainer


@pytest.fixture
def trainer(dpo_flags):
    trainer = dpo_trainer(dpo_flags)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.adapter.parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return trainer


def test_margins_over_the_grid_equal_one_preference_at_a_time(trainer):
    batch = next(iter(trainer.train_dataloader))
    grid = preference_grid(2, 0.25)
    model = trainer.model.module.eval()
    together = margins_over_grid(model, trainer.adapter, batch, grid, rows_per_forward=1000)
    in_parts = margins_over_grid(model, trainer.adapter, batch, grid, rows_per_forward=1)
    for row, preference in zip(together, grid, strict=True):
        alone = margins_over_grid(model, trainer.adapter, batch, preference[None], 1000)
        assert torch.allclose(row, alone[0], atol=1e-4)
    assert torch.allclose(together, in_parts, atol=1e-4)
    assert together.std(dim=0).max() > 1e-3  # λ makes a difference


def test_reward_front_means_and_errors_by_hand(trainer):
    """Rewards that count tokens: the front must be their mean and standard error."""
    grid = preference_grid(2, 0.5)
    tokenizer = trainer.tokenizer
    config = SamplingConfig(24, tokenizer.eos_token_id, tokenizer.pad_token_id)
    seen = []

    def rewards(input_ids, attention_mask):
        values = torch.stack([attention_mask.sum(-1), input_ids[:, -1]], dim=-1).float()
        seen.append(values)
        return values

    prompts = ["ab", "cde", "f"]
    front, responses = evaluate_reward_front(
        trainer.model.module,
        trainer.adapter,
        tokenizer,
        rewards,
        prompts,
        grid,
        config,
        objectives=("one", "two"),
        prompts_per_batch=2,
        progress=False,
    )
    by_point = torch.cat([chunk.view(3, -1, 2) for chunk in seen], dim=1).double()  # (3, 3, 2)
    for index, point in enumerate(front.points):
        values = by_point[index]
        mean = values.sum(dim=0) / 3
        error = ((values - mean) ** 2).sum(dim=0).div(2).sqrt() / 3**0.5
        assert point.objectives == pytest.approx(mean.tolist())
        assert point.standard_errors == pytest.approx(error.tolist())
    assert [r.prompt for r in responses] == ["ab", "cde"] * 3 + ["f"] * 3
    assert len({r.preference for r in responses}) == 3


def read_front(folder):
    return json.loads((folder / "front.json").read_text(encoding="utf-8"))


def test_program_on_pairs_and_on_prompts(
    dpo_flags, pairs, prompts, reward_models, tmp_path, capsys
):
    dpo_main(dpo_flags)
    common = ["--adapter", str(tmp_path / "out"), "--progress", "false", "--grid_step", "0.5"]
    evaluate(
        [*common, "--datasets", f"pairs:1:{pairs}", "--output_dir", str(tmp_path / "accuracy")]
    )
    front = read_front(tmp_path / "accuracy")
    assert len(front["front"]) == 3
    assert front["metadata"]["labelled_pairs"] == [64, 64]
    assert "Spearman" in capsys.readouterr().out
    evaluate(
        [
            *common,
            *("--datasets", f"prompts:0.25:{prompts}", "--output_dir", str(tmp_path / "rewards")),
            *("--reward_models", *(f"{n}={p}" for n, p in reward_models.items())),
            *("--max_length", "32"),
        ]
    )
    responses = json.loads((tmp_path / "rewards" / "responses.json").read_text(encoding="utf-8"))
    assert len(responses) == 3 * len({r["prompt"] for r in responses})
    assert (tmp_path / "rewards" / "front.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        evaluate(
            [*common, "--datasets", f"pairs:1:{pairs}", "--output_dir", str(tmp_path / "accuracy")]
        )
    assert "already holds a run" in capsys.readouterr().err


def test_a_soup_at_a_vertex_is_its_ingredient(dpo_flags, pairs, tmp_path):
    flags = [*dpo_flags, "--lora_dim", "9", "--lora_scaling", "576", "--max_steps", "4"]
    soups_main(["dpo", *flags])
    ingredients = [str(tmp_path / "out" / name) for name in ("helpful", "harmless")]
    configs = [read_json(f"{folder}/adapter_config.json") for folder in ingredients]
    assert [(c["lora_dim"], c["pref_dim"]) for c in configs] == [(9, 0), (9, 0)]
    common = ["--datasets", f"pairs:1:{pairs}", "--progress", "false", "--grid_step", "0.5"]
    soup = ["--adapter", *ingredients, "--objectives", "helpful", "harmless"]
    evaluate([*common, *soup, "--output_dir", str(tmp_path / "soup")])
    fronts = [read_front(tmp_path / "soup")["front"]]
    for index, folder in enumerate(ingredients):
        evaluate([*common, "--adapter", folder, "--output_dir", str(tmp_path / f"one{index}")])
        fronts.append(read_front(tmp_path / f"one{index}")["front"])
    assert fronts[0][-1]["objectives"] == fronts[1][0]["objectives"]  # λ = (1, 0): helpful's
    assert fronts[0][0]["objectives"] == fronts[2][0]["objectives"]
    assert fronts[1][0]["objectives"] != fronts[2][0]["objectives"]


def test_discrete_policies_one_folder_per_grid_point(dpo_flags, tmp_path):
    discrete_main(["dpo", "0.5", *dpo_flags, "--max_steps", "1"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"0_1", "0.5_0.5", "1_0"}
