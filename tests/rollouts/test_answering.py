"""A front whose responses a server draws, beside the package's own."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from tests.algorithms.conftest import write_lines
from tests.export.models import saved
from tests.rollouts.stand_in import StandIn

RULES = "safe_rlhf_panacea.reward_functions"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("adapted"))


def flags(adapter, folder, *more):
    prompts = [{"prompt": text} for text in ("c", "defg", "ed", "ggcd", "fe")]
    return [
        *("--adapter", str(adapter), "--output_dir", str(folder)),
        *("--datasets", f"prompts:1:{write_lines(folder.with_suffix('.jsonl'), prompts)}"),
        *("--reward_models", f"helpful={RULES}:matches?pattern=a"),
        f"harmless={RULES}:concise?max_length=4,min_length=1",
        *("--max_length", "24", "--batch_size", "3", "--progress", "false", *more),
    ]


def test_greedy_answers_and_the_front_are_the_same(adapted, tmp_path):
    base, adapter = adapted
    grid = ("--grid_step", "0.5", "--temperature", "0")
    evaluate(flags(adapter, tmp_path / "own", *grid))
    with StandIn(base, {"adapter": adapter}) as server:
        engine = ("--engine", "vllm", "--server", server.url)
        evaluate(flags(adapter, tmp_path / "served", *grid, *engine))
    names = {body["model"] for body in server.asked[1:]}
    assert len(names) == 4  # three λ, and the base model
    for name in ("responses.json", "front.json", "values.json"):
        own, served = (
            json.loads((tmp_path / kind / name).read_text()) for kind in ("own", "served")
        )
        assert own == served, name


def test_luck_is_shared_by_the_points_of_a_front(adapted, tmp_path):
    base, adapter = adapted
    with StandIn(base, {"adapter": adapter}) as server:
        engine = ("--engine", "vllm", "--server", server.url, "--with_base", "false")
        evaluate(flags(adapter, tmp_path / "front", "--grid_step", "0.5", *engine))
    seeds = {}
    for body in server.asked[1:]:
        seeds.setdefault(tuple(body["prompt"]), set()).add(body["seed"])
    assert len(seeds) == 5 and all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "has not this package's plugin, or not adapter={adapter}"),
        (("--grid_step", "0.125"), "0.125,0.875: a server is asked for λ of at most 2 decimals"),
    ],
)
def test_refusals(adapted, tmp_path, capsys, more, message):
    """A server of another adapter; and λ that the plugin refuses."""
    base, adapter = adapted
    with StandIn(base, {"another": adapter}) as server, pytest.raises(SystemExit):
        engine = ("--engine", "vllm", "--server", server.url)
        evaluate(flags(adapter, tmp_path / "front", *engine, *more))
    error = capsys.readouterr().err
    assert message.format(adapter=adapter) in error and error.count("\n") == 1
    assert not (tmp_path / "front").exists()
