"""Fronts of trained adapters: all λ in one pass equal λ by λ, and the program that makes them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.adapter import load_adapter
from safe_rlhf_panacea.algorithms.ppo import main as ppo_main
from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.baselines.discrete_policies import main as discrete_main
from safe_rlhf_panacea.baselines.rewarded_soups import main as soups_main
from safe_rlhf_panacea.baselines.variants import train_unfinished
from safe_rlhf_panacea.data import PreferenceDataset
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.evaluation.calibrate import main as calibrate
from safe_rlhf_panacea.forward import NotFiniteError, SamplingConfig
from safe_rlhf_panacea.fronts.measure import Policy, measure, prompts_of_pairs
from safe_rlhf_panacea.fronts.over_grid import Prompt, margins_over_grid, over_rows
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.preference import preference_grid
from tests.algorithms.conftest import dpo_command
from tests.algorithms.helpers import dpo_trainer

QUICK = ("--progress", "false", "--grid_step", "0.5", "--max_length", "32")


@pytest.fixture(scope="module")
def trainer(base_model, pairs, tmp_path_factory):
    flags = dpo_command(base_model, pairs, tmp_path_factory.mktemp("front") / "out")
    trainer = dpo_trainer(flags)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.panacea.policy.parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return trainer


@pytest.fixture
def policy(trainer):
    tokenizer = trainer.tokenizer
    config = SamplingConfig(24, tokenizer.eos_token_id, tokenizer.pad_token_id)
    held = trainer.model.module, trainer.panacea.policy, tokenizer, config
    return Policy(*held, prompts_per_batch=2, progress=False)


def test_margins_over_the_grid_equal_one_preference_at_a_time(trainer):
    batch = next(iter(trainer.train_dataloader))
    grid = preference_grid(2, 0.25)
    model = trainer.model.module.eval()
    together = margins_over_grid(model, trainer.panacea.policy, batch, grid)
    for row, preference in zip(together, grid, strict=True):
        with trainer.panacea.at(preference.expand(len(batch["labels"]), -1), shared=True):
            losses = trainer.loss(**batch)
        expected = losses["reward_margin"] / trainer.scale_coeff
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
    assert together.std(dim=0).max() > 1e-3  # λ makes a difference


def test_the_preference_that_held_before_holds_after(trainer, policy):
    policy.adapter.set_preference(torch.tensor([0.125, 0.875]))
    pairs = trainer.train_dataloader.dataset
    for what in ({"prompts": prompts_of_pairs(pairs, 2)}, {"pairs": pairs}):
        measure(policy, preference_grid(2, 0.5), **what)
        assert policy.adapter.preference.tolist() == [0.125, 0.875]


def test_an_objective_without_a_label_makes_no_front(trainer, policy, monkeypatch):
    pairs = trainer.train_dataloader.dataset
    monkeypatch.setattr(pairs, "labels", pairs.labels * torch.tensor([1, 0]))
    with pytest.raises(NotFiniteError, match="objective 2 of 2 counts for no pair"):
        measure(policy, preference_grid(2, 1.0), pairs=pairs)
    with pytest.raises(ValueError, match="an adapter switched off: none given"):
        measure(replace(policy, adapter=None), preference_grid(2, 1.0), pairs=pairs)


def test_reward_front_means_and_errors_by_hand(policy):
    """Rewards that count tokens: the front must be their mean and standard error."""
    seen = []

    def rewards(responses):
        lengths, last = responses.attention_mask.sum(-1), responses.input_ids[:, -1]
        seen.append(torch.stack([lengths, last], dim=-1).float())
        return seen[-1]

    texts = ["ab", "cde", "f"]
    prompts = list(map(Prompt, texts, policy.tokenizer(texts)["input_ids"]))
    measured = measure(policy, preference_grid(2, 0.5), prompts=prompts, rewards=rewards)
    front, responses = measured.result(("one", "two"), {}), measured.responses()
    by_point = torch.cat([chunk.view(3, -1, 2) for chunk in seen], dim=1).double()  # (3, 3, 2)
    assert [r["prompt"] for r in responses] == ["ab"] * 3 + ["cde"] * 3 + ["f"] * 3
    for point, values in zip(front.points, by_point, strict=True):
        error = values.std(dim=0) / 3**0.5
        assert point.objectives == pytest.approx(values.mean(dim=0).tolist())
        assert point.standard_errors == pytest.approx(error.tolist())
        mine = [r for r in responses if tuple(r["preference"]) == point.preference]
        assert [r["rewards"] for r in mine] == values.tolist()
        ratios = torch.tensor([r["log_ratio"] for r in mine]).double()
        assert point.kl == pytest.approx(ratios.mean().item(), abs=1e-4)
        assert point.kl_error == pytest.approx(ratios.std().item() / 3**0.5, abs=1e-4)
    assert max(abs(point.kl) for point in front.points) > 1e-3


def read_front(folder):
    return json.loads((folder / "front.json").read_text(encoding="utf-8"))


def assert_values_are_behind(folder):
    """values.json holds what the points are means of."""
    found = json.loads((folder / "values.json").read_text(encoding="utf-8"))
    values = np.array(found["values"], dtype=float)  # size = (N, U, m); null is NaN
    points = read_front(folder)["front"]
    assert found["preferences"] == [point["preference"] for point in points]
    means = [point["objectives"] for point in points]
    np.testing.assert_allclose(np.nanmean(values, axis=1), means, atol=1e-5)
    assert len(found["units"]) == len(set(found["units"])) == values.shape[1]


def assert_losses_are_those_of_the_pairs(folder, trained, pairs, base_model):
    """The mean log σ(±βΔ) of the adapter's margins, in float64, beside the accuracies."""
    front = read_front(folder / "accuracy" / "log-sigmoid")
    assert_values_are_behind(folder / "accuracy" / "log-sigmoid")
    assert (front["kind"], front["reference_point"]) == ("log-sigmoid", [-1.0, -1.0])
    assert front["base"]["objectives"] == [-math.log(2)] * 2
    model, tokenizer = load_pretrained_models(base_model, model_max_length=64)
    adapter = load_adapter(model, trained)
    dataset = PreferenceDataset([f"pairs:1:{pairs}"], tokenizer, ("helpful", "harmless"))
    for point in front["front"]:
        grid = torch.tensor([point["preference"]])
        rows = range(len(dataset))
        margins, labels = over_rows(
            margins_over_grid, model, adapter, dataset, rows, grid, rows=64, progress=False
        )
        for index, value in enumerate(point["objectives"]):
            towards = 0.1 * margins[0].numpy() * labels[:, index].numpy()
            assert value == pytest.approx(-np.log1p(np.exp(-towards)).mean(), abs=1e-5)
    assert abs(front["front"][0]["objectives"][0] + math.log(2)) > 1e-4


def test_program_on_pairs_and_on_prompts(
    trained, pairs, prompts, reward_models, base_model, tmp_path, capsys
):
    common = ["--adapter", str(trained), *QUICK]
    on_pairs = ["--datasets", f"pairs:1:{pairs}", "--output_dir", str(tmp_path / "accuracy")]
    evaluate([*common, *on_pairs])
    front = read_front(tmp_path / "accuracy")
    assert len(front["front"]) == 3
    assert_values_are_behind(tmp_path / "accuracy")
    assert front["metadata"]["labelled_pairs"] == [64, 64]
    assert (front["method"], front["kind"], front["base"]) == ("panacea", "accuracy", None)
    assert "Spearman" in capsys.readouterr().out
    assert_losses_are_those_of_the_pairs(tmp_path, trained, pairs, str(base_model))
    evaluate(
        [
            *common,
            *("--datasets", f"prompts:0.25:{prompts}", "--output_dir", str(tmp_path / "rewards")),
            *("--reward_models", *(f"{n}={p}" for n, p in reward_models.items())),
        ]
    )
    responses = read_json(tmp_path / "rewards" / "responses.json")
    assert len(responses) == 4 * len({r["prompt"] for r in responses})  # three λ and the base
    low = torch.tensor([r["rewards"] for r in responses if r["preference"] == []]).double()
    front = read_front(tmp_path / "rewards")
    assert front["base"]["objectives"] == pytest.approx(low.mean(dim=0).tolist())
    assert front["metadata"] == {"prompts": len(low)}
    assert_values_are_behind(tmp_path / "rewards")
    point = low.mean(dim=0) - 2 * low.std(dim=0)
    assert front["reference_point"] == pytest.approx(point.tolist(), abs=0.006)
    assert all(point["kl"] is not None for point in front["front"])
    assert (tmp_path / "rewards" / "front.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        evaluate([*common, *on_pairs])
    assert "already holds a run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ingredients(base_model, pairs, tmp_path_factory):
    """Of a rewarded soup: the flags that trained them, and their folder; only for reading."""
    folder = tmp_path_factory.mktemp("soup") / "out"
    flags = ["dpo", *dpo_command(base_model, pairs, folder), "--lora_dim", "9"]
    flags += ["--lora_scaling", "576", "--max_steps", "4"]
    soups_main(flags)
    return flags, folder


@pytest.mark.usefixtures("no_page")
def test_a_soup_at_a_vertex_is_its_ingredient(ingredients, pairs, tmp_path):
    folders = [str(ingredients[1] / name) for name in ("helpful", "harmless")]
    configs = [read_json(f"{folder}/adapter_config.json") for folder in folders]
    assert [(c["lora_dim"], c["pref_dim"]) for c in configs] == [(9, 0), (9, 0)]
    common = ["--datasets", f"pairs:1:{pairs}", *QUICK]
    soup = ["--adapter", *reversed(folders)]  # their records say which is whose
    evaluate([*common, *soup, "--output_dir", str(tmp_path / "soup")])
    fronts = [read_front(tmp_path / "soup")["front"]]
    for index, folder in enumerate(folders):
        evaluate([*common, "--adapter", folder, "--output_dir", str(tmp_path / f"one{index}")])
        fronts.append(read_front(tmp_path / f"one{index}")["front"])
    assert fronts[0][-1]["objectives"] == fronts[1][0]["objectives"]  # λ = (1, 0): helpful's
    assert fronts[0][0]["objectives"] == fronts[2][0]["objectives"]
    assert fronts[1][0]["objectives"] != fronts[2][0]["objectives"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fixed_preference": "0.5,0.5"}, "was trained for a mixed λ"),
        ({"fixed_preference": "1,0"}, "are both for 'helpful'"),
        ({"fixed_preference": None}, "names no --fixed_preference"),
    ],
)
def test_a_soup_of_wrong_ingredients_is_refused(
    ingredients, pairs, tmp_path, capsys, change, message
):
    folders = [tmp_path / "out" / name for name in ("helpful", "harmless")]
    for folder in folders:
        shutil.copytree(ingredients[1] / folder.name, folder)
    record = read_json(folders[1] / "run.json")
    record["args"] |= change
    atomic_write_json(folders[1] / "run.json", record)
    with pytest.raises(SystemExit):
        flags = ["--datasets", f"pairs:1:{pairs}", "--output_dir", str(tmp_path / "soup")]
        evaluate(["--adapter", *map(str, folders), *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "soup").exists()


def test_variants_go_on_where_they_were_interrupted(ingredients, tmp_path, capsys):
    flags, before = ingredients
    out = shutil.copytree(before, tmp_path / "out")
    record = read_json(out / "harmless" / "run.json")
    finished = record.pop("finished_at")
    atomic_write_json(out / "harmless" / "run.json", record)  # as an interruption leaves it
    done = (out / "helpful" / "run.json").read_bytes()
    soups_main([*flags, "--output_dir", str(out)])
    text = capsys.readouterr().out
    assert "helpful: done already" in text
    assert "harmless was interrupted; kept as" in text
    assert (out / "helpful" / "run.json").read_bytes() == done
    assert read_json(out / "harmless" / "run.json")["finished_at"] >= finished
    assert (out / "harmless.interrupted-1" / "run.json").exists()


def test_one_process_speaks_once_the_first_training_has_started_them_all(
    tmp_path, capsys, monkeypatch
):
    """A script in Python knows its rank only from its first training on."""

    def train():
        monkeypatch.setattr("safe_rlhf_panacea.distributed.get_rank", lambda: 1)

    runs = {str(tmp_path / name): train for name in ("one", "two")}
    train_unfinished(runs, overwrite=False)
    assert capsys.readouterr().out == "[1/2] one\n"


@pytest.mark.usefixtures("no_page")
def test_discrete_policies_each_at_its_own_preference(dpo_flags, pairs, tmp_path, capsys):
    train = ["dpo", "--grid_step", "0.5", *dpo_flags, "--max_steps", "2", "--lr", "0.05"]
    discrete_main(train)
    folders = sorted((tmp_path / "out").iterdir())
    assert [folder.name for folder in folders] == ["0.5_0.5", "0_1", "1_0"]
    common = ["--datasets", f"pairs:1:{pairs}", *QUICK]
    adapters = [str(folder) for folder in folders]
    method = ["--method", "discrete_policies", "--adapter", *adapters]
    evaluate([*common, *method, "--output_dir", str(tmp_path / "all")])
    together = read_front(tmp_path / "all")
    assert [p["preference"] for p in together["front"]] == [[0, 1], [0.5, 0.5], [1, 0]]
    for folder, place in zip(folders, (1, 0, 2), strict=True):
        out = tmp_path / f"alone-{folder.name}"
        evaluate([*common, "--adapter", str(folder), "--output_dir", str(out)])
        alone = read_front(out)["front"][0]
        assert alone["objectives"] == together["front"][place]["objectives"]
    records = [read_json(folder / "run.json") for folder in folders]
    seconds = sum(record["training_seconds"] for record in records)
    assert together["cost"]["training_seconds"] == pytest.approx(seconds, abs=1e-2)
    assert together["cost"]["trained_models"] == 3
    tensors = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    counted = sum(tensor.numel() for file in tensors for tensor in file.values())
    assert together["cost"]["stored_parameters"] == counted


@pytest.mark.usefixtures("no_page")
def test_checkpoints_of_a_run_can_be_evaluated(trained, pairs, tmp_path):
    flags = ["--datasets", f"pairs:1:{pairs}", *QUICK]
    for name, folder in (("half", trained / "checkpoints/adapter/step-2"), ("whole", trained)):
        evaluate([*flags, "--adapter", str(folder), "--output_dir", str(tmp_path / name)])
    half, whole = read_front(tmp_path / "half"), read_front(tmp_path / "whole")
    assert (half["step"], whole["step"]) == (2, None)
    assert half["aggregation"] == whole["aggregation"] == "ls"
    assert half["cost"]["training_seconds"] is None
    final, last, half_way = (
        load_file(trained / place / "adapter_model.safetensors")
        for place in ("", "checkpoints/adapter/step-4", "checkpoints/adapter/step-2")
    )
    assert all(torch.equal(final[name], tensor) for name, tensor in last.items())
    assert any(not torch.equal(final[name], tensor) for name, tensor in half_way.items())


@pytest.mark.usefixtures("no_page")
def test_calibration_standardises_the_rewards(
    base_model, prompts, reward_models, ppo_flags, tmp_path, capsys
):
    file = tmp_path / "calibration.json"
    models = ["--reward_models", *(f"{n}={p}" for n, p in reward_models.items())]
    common = [*models, "--datasets", f"prompts:1:{prompts}", "--max_length", "32"]
    common += ["--seed", "7", "--progress", "false"]
    calibrate(["--model_name_or_path", str(base_model), *common, "--output_file", str(file)])
    entries = read_json(file)
    costs = [*common, "--reward_signs", "harmless=-1", "--output_file", str(tmp_path / "costs")]
    calibrate(["--model_name_or_path", str(base_model), *costs])
    assert read_json(tmp_path / "costs") == entries  # of the scores, whatever their signs
    ppo_main([*ppo_flags, "--max_steps", "1", "--reward_calibration", str(file)])
    specs = read_json(tmp_path / "out" / "run.json")["reward_specs"]
    assert len(specs) == 2
    out = ["--output_dir", str(tmp_path / "front"), "--grid_step", "1"]
    evaluate(["--adapter", str(tmp_path / "out"), *common, *out, "--reward_calibration", str(file)])
    responses = read_json(tmp_path / "front" / "responses.json")
    base = torch.tensor([r["rewards"] for r in responses if not r["preference"]]).double()
    assert base.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-5)  # the same draws again
    assert base.std(dim=0).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert {entry["responses"] for entry in entries.values()} == {len(base)}
    with pytest.raises(SystemExit):
        ppo_main([*ppo_flags, "--reward_calibration", str(file), "--reward_scales", "helpful=2"])
    assert "leave out --reward_scales" in capsys.readouterr().err
