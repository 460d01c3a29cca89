"""The program: tables, picture, numbers and page."""

from __future__ import annotations

import base64
import re

import pytest

from safe_rlhf_panacea.evaluation import compare
from safe_rlhf_panacea.evaluation.compare import PROGRAM, main
from safe_rlhf_panacea.fronts.compare import FrontComparison
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.show.plots import front_figure
from tests.eval.evaluations import write_evaluation, write_quickstart, write_training


@pytest.fixture
def runs(tmp_path):
    return [write_evaluation(tmp_path / name, radius) for name, radius in (("one", 1), ("two", 2))]


def refused(argv, said, capsys):
    with pytest.raises(SystemExit):
        main([str(text) for text in argv])
    assert said in capsys.readouterr().err


def record(folder, program, **args):
    atomic_write_json(
        folder / "run.json",
        {"program": program, "args": args, "git": {"commit": "abcdef0123456789", "modified": True}},
    )


def test_numbers_picture_and_record(tmp_path, runs, capsys):
    out = tmp_path / "out"
    main([*runs, "--reference_point", "-1", "-1", "--output_dir", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.html",
        "compare.json",
        "compare.png",
        "run.json",
        "run.yaml",
    ]
    numbers = read_json(out / "compare.json")
    assert numbers["reference_point"] == [-1.0, -1.0]
    one, two = numbers["runs"]
    # Corners (0, r), (r/2, r/2), (r, 0), from (-1, -1): steps of r/2 down from height r + 1.
    assert one["hypervolume"] == pytest.approx(1 * 2 + 0.5 * 1.5 + 0.5 * 1)
    assert two["hypervolume_over_baseline"] == pytest.approx((1 * 3 + 1 * 2 + 1 * 1) / 3.25)
    assert two["folder"] == runs[1] and two["own_reference_point"] == [0.0, 0.0]
    assert numbers["differences"][0]["rows"][0]["difference"] == [0.0, 1.0]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(out / "run.json")["args"]["runs"] == runs
    assert str(out) in capsys.readouterr().out
    main(["--config", str(out / "run.yaml"), "--output_dir", str(tmp_path / "again")])
    assert read_json(tmp_path / "again" / "compare.json") == numbers


def test_the_page_opens_without_a_network(tmp_path, runs):
    out = tmp_path / "out"
    record(tmp_path / "one", "python -m made_it")
    main([runs[0], f"<b>&two={runs[1]}", "--output_dir", str(out)])
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(data) for data in sources] == [(out / "compare.png").read_bytes()]
    assert "<b>" not in page and "&lt;b&gt;&amp;two" in page
    assert "abcdef012345 (files modified)" in page and "python -m made_it" in page
    # λ = (0, 1): 2 minus 1 with √2 · 0.1, which is beyond two standard errors and better.
    assert '<td class="more">+1.000 ± 0.141 *</td>' in page
    assert f"{PROGRAM} {runs[0]}" in page
    main([*runs, "--baseline", "two", "--output_dir", str(tmp_path / "turned")])
    page = (tmp_path / "turned" / "compare.html").read_text(encoding="utf-8")
    assert '<td class="less">-1.000 ± 0.141 *</td>' in page and 'class="more"' not in page


def test_every_kind_of_run_in_one_picture(tmp_path, runs, capsys):
    run = write_training(tmp_path / "run", {10: 1.0, 20: 2.0})
    quick = write_quickstart(tmp_path / "quick", panacea=3.0, rewarded_soups=1.0)
    main([runs[0], f"early={run}@10", f"late={run}", f"{quick}:ppo", "--output_dir", f"{run}-out"])
    numbers = read_json(tmp_path / "run-out" / "compare.json")
    assert f"<td>{run}@10</td>" in (tmp_path / "run-out" / "compare.html").read_text(
        encoding="utf-8"
    )
    names = ["one", "early", "late", "Panacea", "Rewarded Soups"]
    assert [entry["label"] for entry in numbers["runs"]] == names
    assert FrontComparison.load(tmp_path / "run-out" / "compare.json").to_json() == numbers
    assert [entry["step"] for entry in numbers["runs"]] == [None, 10, 20, None, None]
    assert numbers["reference_point"] == [-1.0, -2.0]  # the quickstart's is lower
    assert "Make sure that the units are the same" in capsys.readouterr().out


def test_nothing_is_written_over_unasked(tmp_path, runs, capsys):
    out, training = tmp_path / "out", tmp_path / "training"
    main([*runs, "--output_dir", str(out)])
    refused([*runs, "--output_dir", out], "already holds a run", capsys)
    main([*reversed(runs), "--output_dir", str(out), "--overwrite"])
    assert read_json(out / "compare.json")["baseline"] == "two"
    (training / "checkpoints").mkdir(parents=True)
    record(training, "python -m safe_rlhf_panacea.algorithms.ppo")
    argv = [*runs, "--output_dir", training, "--overwrite"]
    refused(argv, "holds another program's run", capsys)
    assert (training / "checkpoints").is_dir() and (training / "run.json").is_file()


def test_flags_and_grids_are_held_against_each_other(tmp_path, runs, capsys):
    program = "python -m safe_rlhf_panacea.evaluation"
    record(tmp_path / "one", program, seed=1, datasets=["a"], output_dir="x")
    before = sorted(tmp_path.rglob("*"))
    main(runs)
    text = capsys.readouterr().out
    assert text.startswith(f"one: {runs[0]}\ntwo: {runs[1]}\n\nmethod")
    assert "two minus one" in text and "rough guide" in text and "no record" in text
    assert sorted(tmp_path.rglob("*")) == before  # without --output_dir nothing is written
    record(tmp_path / "two", program, seed=2, datasets=["a"], output_dir="y")
    main(runs)
    text = capsys.readouterr().out
    assert "flags differ in --seed (see" in text and "Not all runs" not in text
    result = read_json(tmp_path / "two" / "front.json")
    atomic_write_json(tmp_path / "two" / "front.json", {**result, "front": result["front"][:2]})
    main(runs)
    assert "evaluated at different λ (one 3, two 2)" in capsys.readouterr().out


def test_labels_in_the_picture_are_not_long(tmp_path, runs, monkeypatch):
    drawn = []

    def draw(fronts, title):
        drawn.extend(fronts)
        return front_figure(fronts, title)

    monkeypatch.setattr(compare, "front_figure", draw)
    main([f"{'many words ' * 6}={runs[0]}", runs[1], "--output_dir", str(tmp_path / "out")])
    lines = drawn[0].label.split("\n")
    assert len(lines) > 2 and max(map(len, lines)) <= 24
