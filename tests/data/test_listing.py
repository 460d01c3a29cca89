from __future__ import annotations

import pytest

from safe_rlhf_panacea.data.__main__ import COMMAND, dataset_table, main
from safe_rlhf_panacea.data.raw import RawDataset

PAIR = {"prompt": "q", "response_0": "a", "response_1": "b"}


def test_the_table_names_everything(capsys):
    main([])
    output = capsys.readouterr().out
    assert output == dataset_table() + "\n"
    head, rule, *lines = output.splitlines()
    names = ["name", "kind", "objectives", "hub", "revision", "licence", "aliases"]
    assert head.split() == names
    assert set(rule) == {"-", " "}
    assert [line.split()[0] for line in lines] == [cls.NAME for cls in RawDataset.registered()]
    cells = {line.split()[0]: [cell for cell in line.split("  ") if cell] for line in lines}
    assert [cell.strip() for cell in cells["PKU-SafeRLHF-v0/test"]] == [
        "PKU-SafeRLHF-v0/test", "pairs", "helpful, harmless", "PKU-Alignment/PKU-SafeRLHF", "v0",
        "CC BY-NC 4.0",
    ]  # fmt: skip
    assert cells["alpaca"][-1] == "stanford-alpaca, tatsu-lab/alpaca"
    assert [cell.strip() for cell in cells["prompts"]] == ["prompts", "prompts"]
    usage = "usage: python -m safe_rlhf_panacea.data [-h] [further options] [SPEC]"
    assert usage in COMMAND.parser().format_help()


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
    assert (errors, caplog.messages) == ("", [])  # what was left out is told once


@pytest.mark.parametrize(("spec", "name"), [("", "chosen"), ("helpful=", "helpful")])
def test_a_file(write, capsys, spec, name):
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    spec += str(write([row, row | {"rejected": "a"}]))
    main([spec])
    assert capsys.readouterr().out.startswith(
        f"{spec}:\n  prompt/chosen/rejected: pairs\n"
        "  2 rows, 1 samples; the proportion takes 1\n"
        "left out:\n  1 (identical responses)\n"
        f"labels:\n  {name}: 1 labels, of which 1 prefer the first response and 0 the second"
    )


def test_prompts_have_no_labels(write, capsys):
    path = write([{"prompt": "q " * 500}])
    main([f"prompts:1:{path}"])
    output = capsys.readouterr().out
    assert output.startswith(f"prompts:1:{path}:\n  1 rows, 1 samples; the")
    assert "labels:" not in output
    assert output.endswith("\n  input: " + "q " * 299 + "q …\n")
