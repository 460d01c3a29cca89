"""The figure programs and the report, end to end on small evaluations."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.io import atomic_write_json, read_json
from tests.eval.evaluations import write_evaluation, write_responses
from tests.tiny import tiny_llama

EVAL = Path(__file__).resolve().parents[2] / "eval"
PROGRAMS = [
    "figure_3_reward_distributions",
    "figure_4_left_ppo_fronts",
    "figure_4_right_front_evolution",
    "figure_5_dpo_fronts",
    "figure_6_8_responses",
    "figure_7_scaling_ablation",
    "singular_values",
    "three_objectives",
    "seeds_table",
    "report",
]


@pytest.fixture
def program(monkeypatch):
    """A program's ``main``, imported as Python would run it."""
    monkeypatch.syspath_prepend(str(EVAL))

    def load(name):
        return importlib.import_module(name).main

    yield load
    for name in [*PROGRAMS, "figure_program"]:
        sys.modules.pop(name, None)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "figures"


def refused(main, argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    return error


def check_files(out, name):
    """Picture in both forms, numbers, and the command that made them."""
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    report = read_json(out / f"{name}.json")
    assert report["pictures"] == [f"{name}.png", f"{name}.pdf"]
    assert report["command"].startswith("python ")
    return report


def table_rows(report, start):
    (table,) = [table for table in report["tables"] if table["title"].startswith(start)]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_shows_an_example(program, name, capsys):
    with pytest.raises(SystemExit) as stop:
        program(name)(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "python eval/" in text.split("example:")[1]


def test_fronts_of_ppo_with_one_reference_point(program, out, tmp_path):
    """J = r·λ at λ1 = 0, 1/2, 1, measured from (-1, -1).

    The points dominate three boxes of 1 × (r + 1), (r/2 + 1) × (r/2 + 1) and (r + 1) × 1;
    cut into columns of widths 1, r/2 and r/2, their union is (r + 1) + r/2 (r/2 + 1) + r/2.
    """
    runs = [write_evaluation(tmp_path / n, r) for n, r in (("one", 2.0), ("two", 4.0))]
    argv = ["--runs", *runs, "--output_dir", str(out), "--reference_point", "-1", "-1"]
    program("figure_4_left_ppo_fronts")(argv)
    report = check_files(out, "figure_4_left_ppo_fronts")
    rows = table_rows(report, "Indicators")
    # r = 2: 1·3 + 1·2 + 1·1 = 6;  r = 4: 1·5 + 2·3 + 2·1 = 13
    assert [row["hypervolume"] for row in rows] == pytest.approx([6.0, 13.0])
    assert report["numbers"] == pytest.approx({"one": 6.0, "two": 13.0})
    assert [row["training seconds"] for row in rows] == [1.5, 1.5]
    with open(out / "figure_4_left_ppo_fronts.csv", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    assert lines[0][:2] == ["method", "hypervolume"]
    assert ["two", "0.5", "0.5", "2.0", "2.0", "0.1", "0.1", "0.2", "0.01"] in lines


def test_fronts_that_do_not_go_together(program, out, tmp_path, capsys):
    main = program("figure_4_left_ppo_fronts")
    one = write_evaluation(tmp_path / "one", 1.0)
    odd = {
        "kind": write_evaluation(tmp_path / "kind", 1.0, kind="accuracy"),
        "objectives": write_evaluation(tmp_path / "three", 1.0, m=3),
        "reference points": write_evaluation(tmp_path / "far", 1.0, reference_point=[-1.0, -1.0]),
    }
    for word, other in odd.items():
        error = refused(main, ["--runs", one, other, "--output_dir", str(out)], capsys)
        assert word in error and other in error
    assert "no such file" in refused(main, ["--runs", "gone", "--output_dir", str(out)], capsys)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "front.json").write_text("[1, 2]")
    argv = ["--runs", str(foreign), "--output_dir", str(out)]
    assert "not a result of this version" in refused(main, argv, capsys)
    (foreign / "front.json").write_text('{"form')
    assert "not valid JSON" in refused(main, argv, capsys)
    accuracy = ["--runs", odd["kind"], "--output_dir", str(out)]
    assert "not reward" in refused(main, accuracy, capsys)
    assert not out.exists()


def test_nothing_is_overwritten_without_being_asked(program, out, tmp_path, capsys):
    main = program("figure_5_dpo_fronts")
    argv = ["--runs", write_evaluation(tmp_path / "a", 1.0, kind="accuracy")]
    argv += ["--output_dir", str(out)]
    main(argv)
    before = (out / "figure_5_dpo_fronts.json").read_bytes()
    assert "exists" in refused(main, argv, capsys)
    assert (out / "figure_5_dpo_fronts.json").read_bytes() == before
    main([*argv, "--overwrite", "--reference_point", "-2", "-2"])
    assert (out / "figure_5_dpo_fronts.json").read_bytes() != before


def test_the_front_as_it_grows(program, out, tmp_path, capsys):
    main = program("figure_4_right_front_evolution")
    runs = [write_evaluation(tmp_path / f"s{n}", n / 10, step=n) for n in (20, 10, 30)]
    main(["--runs", *runs, "--output_dir", str(out)])
    report = check_files(out, "figure_4_right_front_evolution")
    rows = table_rows(report, "Indicators")
    assert [row["method"] for row in rows] == ["step 30", "step 20", "step 10"]
    finished = write_evaluation(tmp_path / "finished", 1.0)
    argv = ["--runs", finished, "--output_dir", str(out), "--overwrite"]
    assert "no checkpoint" in refused(main, argv, capsys)


def test_learnt_against_fixed_scaling(program, out, tmp_path, capsys):
    main = program("figure_7_scaling_ablation")
    learnt = write_evaluation(tmp_path / "learnt", 2.0)
    small = write_evaluation(tmp_path / "small", 1.0, fixed_scaling=1e-5)
    large = write_evaluation(tmp_path / "large", 2.0, fixed_scaling=1.0)
    main(["--runs", small, learnt, large, "--output_dir", str(out)])
    ratios = table_rows(check_files(out, "figure_7_scaling_ablation"), "Hypervolume")
    assert [row["scaling"] for row in ratios] == ["learnt s", "s = 1", "s = 1e-05"]
    assert [row["ratio"] for row in ratios] == pytest.approx([1.0, 1.0, 4.0])  # areas go as r²
    argv = ["--runs", small, large, "--output_dir", str(out), "--overwrite"]
    error = refused(main, argv, capsys)
    assert "0 of --runs have a learnt scaling" in error


def test_reward_distributions(program, out, tmp_path, capsys):
    main = program("figure_3_reward_distributions")
    run = write_evaluation(tmp_path / "run", 1.0)
    argv = ["--run", run, "--output_dir", str(out)]
    assert "has no responses.json" in refused(main, argv, capsys)
    write_responses(tmp_path / "run", with_base=False)
    assert "lacks the initial model" in refused(main, argv, capsys)
    write_responses(tmp_path / "run")
    main(argv)
    rows = table_rows(check_files(out, "figure_3_reward_distributions"), "Rewards by λ")
    assert [row["model"] for row in rows][:2] == ["initial model", "(0.00, 1.00)"]
    # helpful rewards at λ1 = 1 are 1 and 10; the initial model's are 0 and 1, of mean 0.5
    last = rows[-1]
    assert last["mean helpful"] == 5.5
    assert last["helpful above the initial mean"] == 1.0
    assert rows[0]["helpful above the initial mean"] == 0.5
    # Where an objective does not count, a response is left out of its numbers.
    responses = read_json(tmp_path / "run" / "responses.json")
    responses[2]["rewards"][0] = responses[4]["rewards"][0] = None  # at λ1 = 1 and at 0
    atomic_write_json(tmp_path / "run" / "responses.json", responses)
    main([*argv, "--overwrite"])
    report = read_json(out / "figure_3_reward_distributions.json")
    last = table_rows(report, "Rewards by λ")[-1]
    assert (last["mean helpful"], last["helpful above the initial mean"]) == (10.0, 1.0)
    assert last["mean harmless"] == -5.5
    program("figure_6_8_responses")(["--run", run, "--output_dir", str(out)])


def test_responses_are_escaped_and_the_most_varied_prompt_is_shown(program, out, tmp_path, capsys):
    main = program("figure_6_8_responses")
    run = write_evaluation(tmp_path / "run", 1.0)
    write_responses(tmp_path / "run")
    main(["--run", run, "--output_dir", str(out)])
    page = (out / "figure_8_responses.html").read_text(encoding="utf-8")
    assert "<b>wild</b>" in page and "calm" not in page
    assert "<script>" not in page and "&lt;script&gt;wild" in page
    assert page.count("<tr>") == 1 + 3
    text = (out / "figure_8_responses.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
    main(["--run", run, "--output_dir", str(out), "--extremes", "--prompt", "calm"])
    (table,) = read_json(out / "figure_6_responses.json")["tables"]
    assert [row[0] for row in table["rows"]] == ["(0.00, 1.00)", "(1.00, 0.00)"]
    assert table["title"] == "calm"
    argv = ["--run", run, "--output_dir", str(out), "--overwrite", "--prompt", "never asked"]
    assert "no responses to the prompt" in refused(main, argv, capsys)


@pytest.mark.parametrize("style", ["triangle", "parallel"])
def test_three_objectives(program, out, tmp_path, capsys, style):
    main = program("three_objectives")
    run = write_evaluation(tmp_path / "run", 2.0, m=3)
    main(["--runs", run, "--output_dir", str(out), "--style", style])
    report = check_files(out, "three_objectives")
    assert len(table_rows(report, "Points")) == 6  # λ in halves on the triangle
    # boxes of (2,0,0) and so on have no volume above the origin, (1,1,0) and so on neither
    assert report["numbers"] == {"run": 0.0}
    two = write_evaluation(tmp_path / "two", 2.0)
    argv = ["--runs", two, "--output_dir", str(out), "--overwrite"]
    assert "has 2 objectives" in refused(main, argv, capsys)


def test_singular_values_are_those_of_the_adapter(program, out, tmp_path, capsys):
    main = program("singular_values")
    config = AdapterConfig(lora_dim=2, pref_dim=2, objectives=("a", "b"), base_model="x")
    adapter = inject_adapter(tiny_llama(), config)
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_sigma.copy_(torch.tensor([0.25, -0.5]))
            layer.lora_s.fill_(-0.125)
    adapter.save(tmp_path / "adapter")
    main(["--adapter", str(tmp_path / "adapter"), "--output_dir", str(out)])
    report = check_files(out, "singular_values")
    rows = table_rows(report, "Singular values")
    assert len(rows) == 2 * 7
    figures = [[row[k] for k in ("least |σ|", "median |σ|", "largest |σ|", "|s|")] for row in rows]
    assert figures == [[0.25, 0.375, 0.5, 0.125]] * 14
    plain = AdapterConfig(lora_dim=2, pref_dim=0, objectives=("a", "b"), base_model="x")
    inject_adapter(tiny_llama(), plain).save(tmp_path / "plain")
    argv = ["--adapter", str(tmp_path / "plain"), "--output_dir", str(out), "--overwrite"]
    assert "trained for one λ" in refused(main, argv, capsys)


def test_several_reproductions_in_one_table(program, tmp_path, capsys):
    main = program("seeds_table")
    assert "no evaluations" in refused(main, ["--runs", str(tmp_path)], capsys)
    unknown = {"training_seconds": None, "stored_parameters": 2500, "trained_models": 1}
    for name, radius, cost in (("seed-1", 2.0, {}), ("seed-2", 4.0, {"cost": unknown})):
        write_evaluation(tmp_path / name / "evaluation" / "panacea", radius, **cost)
        (tmp_path / name / "done").mkdir()
        (tmp_path / name / "done" / "sft").write_text("90 seconds\n")
    write_evaluation(tmp_path / "seed-2" / "evaluation" / "only-here", 1.0)
    main(["--runs", str(tmp_path / "seed-1"), str(tmp_path / "seed-2")])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| panacea")]) == 1
    # hypervolumes r² / 4 above the origin, of the one point inside; their mean 2.5
    assert lines[2].startswith("| panacea | 1 | 4 | 2.5 |")
    assert lines[2].endswith("| – | 1,255 |")
    assert "| seed-2 | 1 | 1.5 |" in lines
    assert not any("only-here" in line for line in lines)


def test_the_report_is_one_page_that_needs_no_network(program, out, tmp_path, capsys):
    main = program("report")
    argv = ["--figures", str(out), "--output", str(tmp_path / "report.html")]
    assert "holds no figures" in refused(main, argv, capsys)
    run = write_evaluation(tmp_path / "run", 1.0)
    write_responses(tmp_path / "run")
    program("figure_6_8_responses")(["--run", run, "--output_dir", str(out)])
    program("figure_4_left_ppo_fronts")(["--runs", run, "--output_dir", str(out)])
    main(argv)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("Figure 4, left") < page.index("Figure 8")  # the paper's order
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 1
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    assert "<script>" not in page
    assert "&lt;script&gt;wild" in page
    assert f"--runs {run}" in page  # the command
    assert "exists" in refused(main, argv, capsys)
    (out / "figure_4_left_ppo_fronts.png").unlink()
    assert "is missing" in refused(main, [*argv, "--overwrite"], capsys)
