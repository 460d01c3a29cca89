"""What evaluations during training leave with wandb, TensorBoard and on the page."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from tests.warm_python import warm_python

SECRETS = {
    "WANDB_API_KEY": "5ec2e7aa" * 5,
    "HF_TOKEN": "hf_5ec2e7bb5ec2e7bb",
    "MY_PASSWORD": "5ec2e7cc-hush",
}


def offline_records(folder: Path) -> list[dict]:
    """The records of the one run of wandb that was written offline."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [warm_python(), "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(records: list[dict]) -> dict[int, dict]:
    """What was logged, by step."""
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return {item["_step"]: item for item in items}


def check_series(found: dict[str, float], results: dict) -> None:
    """Indicators and every point, whoever kept them."""
    for key in ("hypervolume", "inner_product", "sparsity", "spacing", "dominated"):
        assert found[f"front/{key}"] == pytest.approx(results[key], abs=1e-6)
    for name, value in zip(results["objectives"], results["spearman"], strict=True):
        assert found[f"front/spearman_{name}"] == pytest.approx(value, abs=1e-6)
    for point in results["front"]:
        where = "_".join(f"{v:.2f}" for v in point["preference"])
        for name, value in zip(results["objectives"], point["objectives"], strict=True):
            assert found[f"front_{name}/{where}"] == pytest.approx(value, abs=1e-6)


def holding(folder: Path, text: str) -> list[Path]:
    """Files with a text in them, whatever their kind."""
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


@pytest.fixture
def with_secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("with_secrets", "no_page")
def test_wandb_offline_holds_the_numbers_of_the_results(ppo_evaluated, tmp_path):
    ppo([*ppo_evaluated, "--log_type", "wandb", "--eval_interval", "2"])
    folder = tmp_path / "out"
    results = json.loads((folder / "results.json").read_text())
    records = offline_records(folder)
    rows = history(records)
    assert sorted(rows) == [0, 1, 2]
    check_series(rows[2], results)
    assert rows[2]["train/raw_reward_helpful"] == pytest.approx(rows[2]["train/reward_helpful"])
    assert rows[2]["train/preference_helpful"] + rows[2][
        "train/preference_harmless"
    ] == pytest.approx(1, abs=1e-6)
    (run,) = folder.glob("wandb/offline-run-*")
    table = json.loads((run / "files" / rows[2]["front/points_table.path"]).read_text())
    last = [row for row in table["data"] if row[0] == 2]
    points = [[*p["preference"], *p["objectives"], *p["standard_errors"]] for p in results["front"]]
    assert [row[1:7] for row in last] == [pytest.approx(point) for point in points]
    for name in ("front/so_far", "front/now", "front/kl", "front/distributions"):
        assert (run / "files" / rows[2][f"{name}_picture.path"]).stat().st_size > 5000
    assert rows[2]["values_helpful/0.25_0.75._type"] == "histogram"
    responses = json.loads((run / "files" / rows[2]["responses_table.path"]).read_text())
    assert len(responses["data"]) == 4 * 5
    charts = json.dumps([record for record in records if record["type"] == "config"])
    assert "wandb/lineseries" in charts
    assert holding(folder, "BEGINNING")  # the search finds what is there
    for secret in SECRETS.values():
        assert holding(folder, secret) == []


@pytest.mark.usefixtures("with_secrets")
def test_tensorboard_and_the_page_hold_the_numbers_of_the_results(dpo_evaluated, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    dpo([*dpo_evaluated, "--log_type", "tensorboard", "--eval_interval", "2"])
    folder = tmp_path / "out"
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    found = {tag: events.Scalars(tag) for tag in tags["scalars"]}
    assert [event.step for event in found["front/hypervolume"]] == [0, 2]
    results = json.loads((folder / "results.json").read_text())
    check_series({tag: series[-1].value for tag, series in found.items()}, results)
    pictures = {"front/so_far", "front/now", "front/indicators", "singular/by_matrix"}
    assert pictures <= set(tags["images"])
    assert "values_helpful/0.25_0.75" in tags["histograms"]
    text = events.Tensors("front/points/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert f"{results['front'][0]['objectives'][0]:.4g}" in text
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    check_series(next(m for m in reversed(metrics) if "front/spacing" in m), results)
    for secret in SECRETS.values():
        assert holding(folder, secret) == []
    page = (folder / "report.html").read_text()
    assert "refresh" not in page
    assert "<h2>Training</h2>" in page
    assert not (folder / "wandb").exists()
