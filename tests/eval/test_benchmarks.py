"""The benchmark: its arithmetic, its pairs, and that every part runs."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from safe_rlhf_panacea import forward
from safe_rlhf_panacea.adapter import product
from safe_rlhf_panacea.base.losses import diverging_mask
from safe_rlhf_panacea.distributed import unwrap
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import log_probs
from tests.warm_python import warm_python

EVAL = Path(__file__).resolve().parents[2] / "eval"
PARTS = {  # what each times
    "layer": {"32 to 64, 16 rows"},
    "switch": {"set λ"},
    "shortcuts": {"both passes"},
    "dpo": {"step"},
    "front": {"all λ"},
}
PHASES = {
    *("generation", "scoring", "reference", "actor forward", "critic forward", "PTX"),
    *("actor backward and step", "critic backward and step", "the rest", "whole"),
}


@pytest.fixture(scope="module", autouse=True)
def path():
    before, sys.path = sys.path, [str(EVAL), *sys.path]
    yield
    sys.path = before


@pytest.fixture
def benchmark(monkeypatch):
    """The program, which starts warm processes and finds none of its peers."""
    monkeypatch.setattr(sys, "executable", warm_python())
    module = importlib.import_module("benchmarks.run")
    monkeypatch.setattr(module.measuring, "installed", lambda *names: False)
    return module


def module(name):
    return importlib.import_module(f"benchmarks.{name}")


# -- tables ---------------------------------------------------------------------------


def found(*cpu, **more):
    return {"times": {"step": {"cpu": cpu, "wall": [2 * c for c in cpu]}}, "peak_mib": 1.6, **more}


def test_a_ratio_is_of_rounds_and_not_of_medians():
    both = {"us": found(1, 2, 9), "it": found(3, 2, 18)}
    result = {"case": "c", "title": "t", "clock": "cpu", "found": both}
    us, it = module("run").rows(result)
    assert us == ["c", "step", "us", "2 s (1.5-5.5)", "4 s (3-11)", "", "2"]
    assert it[5] == "2.00"  # of 3, 1 and 2; the medians would give 1.5
    assert "| c | step | it | 3 s (2.5-10.5) |" in module("run").markdown([result], "a machine")


def test_parts_show_their_share_of_the_whole():
    times = {"whole": {"cpu": [2.0], "wall": [5.0]}, "PTX": {"cpu": [0.5], "wall": [0.5]}}
    share = module("run").share
    assert (share(times, "PTX", "cpu"), share(times, "PTX", "wall")) == (", 25%", ", 10%")
    assert share(times, "whole", "cpu") == ""
    assert share({"PTX": times["PTX"]}, "PTX", "cpu") == ""


def test_of_several_processes_the_slowest_clock_and_all_cpu_time_count():
    measured = module("measuring").Measured()
    answers = [
        {"times": {"step": {"wall": wall, "cpu": cpu}}, "peak_mib": 10}
        for wall, cpu in ((1.0, 2.0), (3.0, 0.5))
    ]
    measured.add(answers)
    assert measured.times == {"step": {"wall": [3.0], "cpu": [2.5]}}
    assert measured.peak_mib == 20


def test_the_stopwatch_adds_up_and_divides():
    watch = module("worker").Stopwatch("cpu")
    clock = iter([(0.0, 0.0), (6.0, 3.0), (10.0, 4.0), (11.0, 5.0)])
    watch._now = lambda: next(clock)
    with watch.time("a", repeats=3):
        pass
    with watch.time("a"):
        pass
    assert watch.found == {"a": {"wall": 3.0, "cpu": 2.0}}


# -- pairs ----------------------------------------------------------------------------


def test_pairs_part_where_the_lengths_say_and_repeat():
    pairs = module("inputs")
    one, other = (pairs.pair_batches("real", 6, 64, 50, 2) for _ in range(2))
    kinds = {tuple(row) for row in pairs.lengths("real", 64)}
    for batch, again in itertools.islice(zip(one, other, strict=True), 3):
        assert all(torch.equal(batch[key], again[key]) for key in batch)
        better, worse = batch["better_input_ids"], batch["worse_input_ids"]
        masks = batch["better_attention_mask"], batch["worse_attention_mask"]
        for row in range(6):
            lengths = [int(mask[row].sum()) for mask in masks]
            same = better[row, : min(lengths)].eq(worse[row, : min(lengths)])
            shared = int(same.long().cumprod(0).sum())
            assert (int(batch["prompt_length"][row]), shared, *lengths) in kinds
        assert max(int(mask.sum(1).max()) for mask in masks) == better.size(1) <= 64
        assert better[masks[0]].min() >= 4 and not better[~masks[0]].any()


def test_equal_pairs_have_no_padding():
    batch = next(module("inputs").pair_batches("equal", 3, 16, 50, 2))
    assert batch["better_attention_mask"].all() and batch["worse_attention_mask"].all()
    assert batch["better_input_ids"].shape == (3, 16) and batch["labels"].shape == (3, 2)


def test_prompts_end_where_responses_begin():
    job = dict(model="tiny", kind="real", prompts=4, longest=64)
    (one,) = itertools.islice(module("parts.ppo")._prompts(job), 1)
    ids, mask = one["prompts"]["input_ids"], one["prompts"]["attention_mask"]
    text = one["text"]["input_ids"]
    for row in range(4):
        length = int(mask[row].sum())
        assert mask[row, -length:].all() and ids[row, -length:].equal(text[row, :length])


# -- running --------------------------------------------------------------------------


def run(benchmark, tmp_path, *flags):
    output = tmp_path / "found.md"
    benchmark.main(["--size", "quick", *flags, "--output", str(output)])
    return json.loads(output.with_suffix(".json").read_text())["results"], output.read_text()


def test_every_part_runs(benchmark, tmp_path, capsys):
    flags = ("--lengths", "real", "--trainers", "panacea", "--rounds", "1")
    results, table = run(benchmark, tmp_path, "--parts", *PARTS, *flags)
    shown = capsys.readouterr().out
    assert list(dict.fromkeys(result["part"] for result in results)) == list(PARTS)
    for result in results:
        for one in result["found"].values():
            assert set(one["times"]) == PARTS[result["part"]]
            assert all(t["cpu"][0] > 0 and t["wall"][0] > 0 for t in one["times"].values())
        assert f"### {result['title']}" in table
        assert f"{result['title']}: {result['case']}" in shown
    assert set(results[0]["found"]) == {"this package", "frozen layer"}


@pytest.mark.parametrize(
    ("shortcut", "difference"),
    [
        ("prefix sharing", "tokens"),
        ("the vocabulary in blocks", "width"),
        ("attention written out", "attention"),
        ("packed weights", "packed"),
    ],
)
def test_a_shortcut_that_is_off_is_off_and_changes_no_number(shortcut, difference, monkeypatch):
    own, ways, found = forward.log_probs, [], []

    def packed(*product):
        ways[-1]["packed"] += 1
        return F.linear(*product)

    def noting(model, *inputs):
        ways.append({"packed": 0, "tokens": 0})

        def hook(_, __, given, out):
            ways[-1]["tokens"] += given["input_ids"].numel()
            ways[-1]["width"] = out.logits.shape[-1]
            ways[-1]["attention"] = model.config._attn_implementation

        handle = model.register_forward_hook(hook, with_kwargs=True)
        found.append(own(model, *inputs))
        handle.remove()
        return found[-1]

    monkeypatch.setattr(forward, "log_probs", noting)
    monkeypatch.setattr(product, "_by_onednn", packed)
    job = dict(device="cpu", model="tiny", batch=4, longest=32, shortcut=shortcut)
    for on in (True, False):
        monkeypatch.setattr(product, "onednn_is_faster", lambda: True)
        work = module("parts.shortcuts").prepare({**job, "with": on})
        for _ in range(2):  # the first time some of them are tried out
            work(module("worker").Stopwatch("cpu"))
    _, with_it, _, without_it = ways
    same = {name for name in with_it if with_it[name] == without_it[name]}
    assert with_it[difference] != without_it[difference]
    assert same >= {"tokens", "width", "attention", "packed"} - {difference, "packed"}
    torch.testing.assert_close(found[1], found[3], rtol=0, atol=0.05)


def test_a_step_of_ppo_is_the_sum_of_its_parts(benchmark, tmp_path):
    flags = ("--lengths", "real", "--trainers", "plain", "--rounds", "1")
    (plain, whole), _ = run(benchmark, tmp_path, "--parts", "ppo", *flags)
    assert set(plain["found"]["this package"]["times"]) == {"whole"}
    times = whole["found"]["this package"]["times"]
    assert set(times) == PHASES
    parts = [times[name]["cpu"][0] for name in PHASES - {"whole"}]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(times["whole"]["cpu"][0])


@pytest.mark.multiprocess
@pytest.mark.slow
def test_growth(benchmark, tmp_path):
    results, _ = run(benchmark, tmp_path, "--parts", "growth", "--rounds", "1")
    assert [len(result["found"]) for result in results] == [3, 3, 3, 3, 2]


def test_another_checkout_is_what_is_measured(benchmark, tmp_path):
    here = Path(__file__).resolve().parents[2]
    contender = module("measuring").Contender
    case = benchmark.Case("c", [contender("us", {}), contender("it", {}, ours=False)])
    names = [(one.name, one.tree) for one in benchmark.beside(case, str(tmp_path)).contenders]
    assert names == [("us", here), (f"us, {tmp_path.name}", tmp_path), ("it", here)]


def test_a_package_from_elsewhere_is_refused(benchmark, tmp_path, capsys):
    package = tmp_path / "safe_rlhf_panacea"
    package.mkdir()
    (package / "__init__.py").write_text("")
    with pytest.raises(SystemExit):  # the warm Python has this checkout's imported already
        run(benchmark, tmp_path, "--parts", "switch", "--against", str(tmp_path))
    assert f"not that of {tmp_path}" in capsys.readouterr().err


def test_a_contender_that_fails_is_told(benchmark):
    job = dict(part="models", imports=[], device="cpu", model="none", work="/nonexistent")
    with pytest.raises(UserError, match=r"(?s)models failed: .*KeyError: 'none'"):
        benchmark.run_once({**job, "rewards": False})


@pytest.mark.slow
def test_trl_trains_as_many_numbers_and_counts_the_same_tokens(tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    args = Namespace(batch=4, longest=64, work=str(tmp_path), device="cpu")
    job = module("parts.dpo").dpo_job(args, "tiny")
    module("inputs").write_models({**job, "rewards": False})(None)
    theirs = module("trainers").make_trl_trainer(job).model
    ours = module("trainers").make_trainer(job)
    sizes = [
        sum(p.numel() for p in model.parameters() if p.requires_grad)
        for model in (theirs, unwrap(ours.model))
    ]
    matrices = len(ours.panacea.policy.layers)
    assert sizes[1] - sizes[0] == matrices * (job["lora_dim"] + 1)  # σ and s

    batch = next(module("inputs").pair_batches("real", 4, 64, 64, 2))
    inputs = module("trainers").trl_inputs(batch)
    ids, counted = inputs["input_ids"], inputs["completion_mask"]
    with torch.no_grad(), theirs.disable_adapter():
        labels = ids.masked_fill(counted == 0, -100)
        model_inputs = {"input_ids": ids, "attention_mask": inputs["attention_mask"]}
        found = theirs(**model_inputs, labels=labels, fused_lm_head=True, use_cache=False)
    better, worse = found.log_probs[:, 1 - ids.size(1) :].sum(dim=1).chunk(2)
    with torch.no_grad(), ours.reference() as model:
        mask = inputs["attention_mask"]
        own = log_probs(model, ids, mask, mask[:, 1:])
    masks = diverging_mask(*(batch[name] for name in module("parts.dpo").PLAIN_KEYS))
    expected_better, expected_worse = (own * torch.cat(masks)).sum(dim=1).chunk(2)
    torch.testing.assert_close(
        better - worse, expected_better - expected_worse, atol=1e-4, rtol=1e-4
    )
