from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.__main__ import dataset_table, main
from safe_rlhf_panacea.data.raw import RawDataset

PAIR = {"prompt": "q", "response_0": "a", "response_1": "b"}


def test_the_table_names_everything():
    head, rule, *lines = dataset_table().splitlines()
    assert head.split() == [
        "name", "kind", "objectives", "hub", "revision", "licence", "aliases",
    ]  # fmt: skip
    assert set(rule) == {"-", " "}
    assert [line.split()[0] for line in lines] == [cls.NAME for cls in RawDataset.registered()]
    (line,) = [line for line in lines if line.startswith("PKU-SafeRLHF-v0/test")]
    assert line.split("  ")[0] == "PKU-SafeRLHF-v0/test"
    assert [cell.strip() for cell in line.split("  ") if cell.strip()] == [
        "PKU-SafeRLHF-v0/test", "pairs", "helpful, harmless", "PKU-Alignment/PKU-SafeRLHF", "v0",
        "CC BY-NC 4.0",
    ]  # fmt: skip
    (line,) = [line for line in lines if line.startswith("alpaca")]
    assert line.endswith("main      CC BY-NC 4.0  stanford-alpaca, tatsu-lab/alpaca")
    (line,) = [line for line in lines if line.startswith("prompts")]
    assert line.split() == ["prompts", "prompts"]


def test_a_published_data_set(write, capsys, caplog):
    labels = [(0, 0), (0, 1), (1, 0), (1, None), (None, 1), (None, None), (1, 0)]
    rows = [
        PAIR | {"prompt": f"q{i}", "better_response_id": helpful, "safer_response_id": harmless}
        for i, (helpful, harmless) in enumerate(labels)
    ]
    rows[-1]["response_0"] = "  "
    path = write([rows[-1], *rows[:-1]])
    spec = f"PKU-SafeRLHF-30K/train:0.6:{path}"
    main([spec])
    output, errors = capsys.readouterr()
    assert output == (
        f"{spec}:\n"
        "  7 rows, 5 samples; the proportion takes 3\n"
        "left out:\n"
        "  1 (blank response)\n"
        "  1 (tied or unlabelled on every objective)\n"
        "labels:\n"
        "  helpful: 4 labels, of which 2 prefer the first response and 2 the second; 1 without\n"
        "  harmless: 4 labels, of which 2 prefer the first response and 2 the second; 1 without\n"
        "conflicts:\n"
        "  helpful and harmless: 2 of 3 pairs that both label\n"
        f"first sample, {path}:2:\n"
        "  input: q0\n"
        "  answer: a\n"
        "  other_answer: b\n"
        "  labels: {'helpful': 0, 'harmless': 0}\n"
    )
    assert errors == ""
    assert caplog.messages == []  # what was left out is told once


def test_own_files(write, capsys):
    main([f"pairs:1:{write([PAIR | {'better_a': 0}, PAIR | {'better_b': 1}])}"])
    output = capsys.readouterr().out
    assert "  2 rows, 2 samples; the proportion takes 2\nlabels:\n" in output
    assert "  a: 1 labels, of which 1 prefer the first response and 0 the second; 1 w" in output
    assert "  a and b: 0 of 0 pairs that both label\n" in output


def test_prompts_have_no_labels(write, capsys):
    path = write([{"prompt": "q " * 500}])
    main([f"prompts:1:{path}"])
    output = capsys.readouterr().out
    assert output.startswith(f"prompts:1:{path}:\n  1 rows, 1 samples; the")
    assert "labels:" not in output
    assert output.endswith("\n  input: " + "q " * 299 + "q …\n")


def test_mistakes_are_one_line(capsys):
    for argv in (["nothing"], ["pairs"], ["pairs:0:x.jsonl"], ["pairs", "prompts"], ["--flag"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1


def test_as_a_program():
    def run(*argv):
        command = [sys.executable, "-m", "safe_rlhf_panacea.data", *argv]
        root = Path(__file__).resolve().parents[2]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout

    assert run() == dataset_table() + "\n"
    usage = "usage: python -m safe_rlhf_panacea.data [-h] [further options] [SPEC]"
    assert usage in run("--help")
