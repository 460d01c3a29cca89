"""Typed options: one source for flags, YAML, records and Python."""

from __future__ import annotations

import argparse
import dataclasses
import shlex

import pytest
import torch
import yaml

from safe_rlhf_panacea.algorithms.dpo import COMMAND, parse_arguments
from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.algorithms import (
    DPOConfig,
    FinetuneConfig,
    GRPOConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
)
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.configs.options import Options, option
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.preference import parse_preference

CONFIGS = (DPOConfig, SFTConfig, GRPOConfig, PPOConfig, RewardConfig, FinetuneConfig)
NEEDED = ["--model_name_or_path", "m", "--train_datasets", "a=x", "b=y", "--output_dir", "out"]


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_default_is_a_value_of_its_option(cls):
    for one in cls.OPTIONS.values():
        assert one.default is None or one.read(one.default) == one.default
    assert cls().given() == {}


def test_options_are_frozen_and_changed_in_a_copy():
    config = DPOConfig(lora_dim=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lora_dim = 5
    assert (config.with_(seed=3).seed, config.with_(seed=3).lora_dim, config.seed) == (3, 4, 42)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_dim": 0}, "--lora_dim: 0 is not a positive integer"),
        ({"seed": True}, "--seed: True is not a seed"),
        ({"lr": "fast"}, "--lr: 'fast' is not a number"),
        ({"lr": float("inf")}, "--lr: inf is not a number of at least 0"),
        ({"bf16": "maybe"}, "--bf16: 'maybe' is neither true nor false"),
        ({"zero_stage": 4}, "--zero_stage: invalid choice: 4 (choose from '0', '1', '2', '3')"),
        ({"output_dir": 3}, "--output_dir: 3 is not text"),
        ({"epochs": None}, "--epochs: None is not a positive integer"),
        (
            {"epochs": 10**5000},
            "--epochs: a number of thousands of digits is not a positive integer",
        ),
        ({"lr": 10**5000}, "--lr: a number of thousands of digits is not a number"),
        ({"train_datasets": [3]}, "--train_datasets: 3 is no data set"),
        ({"train_datasets": {"a": "x"}}, "--train_datasets: {'a': 'x'} is no data set"),
        ({"model_name_or_path": 3}, "--model_name_or_path: a int is no model"),
    ],
)
def test_a_bad_value_from_python_is_named(values, message):
    with pytest.raises(UserError) as caught:
        DPOConfig(**values)
    assert message in str(caught.value)


def test_a_value_is_the_same_from_text_yaml_and_python(tmp_path):
    file = tmp_path / "run.yaml"
    values = {"lr": "1e-3", "bf16": True, "report_to": ["none"], "reference_point": [0, -1]}
    aliased = {"learning_rate" if name == "lr" else name: values[name] for name in values}
    file.write_text(yaml.safe_dump({**aliased, "lora_dim": 4}))
    words = shlex.split("--lr 1e-3 --bf16 --report_to none --reference_point 0 -1 --lora_dim 3")
    from_words = parse_arguments([*NEEDED, *words])
    from_yaml = parse_arguments([*NEEDED, "--config", str(file), "--lora_dim", "3"])
    given = {"model_name_or_path": "m", "train_datasets": ["a=x", "b=y"], "output_dir": "out"}
    from_python = DPOConfig(**{**values, **given, "lora_dim": 3}).resolved()
    assert from_words == from_yaml == from_python
    assert (from_words.pref_dim, from_words.objectives) == (2, ("a", "b"))
    assert from_words.reference_point == (0.0, -1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("lora_dimm: 4", f"{COMMAND.name} has no option 'lora_dimm': did you mean lora_dim?"),
        ("actor_lr: 1", "has no option 'actor_lr': is this the file of another program?"),
        ("- 3", "must hold lines of the form option: value"),
        ("a: [", "while parsing"),
        ("lora_dim: 0", "--lora_dim: 0 is not a positive integer"),
        ("lr: 1\nlearning_rate: 2", "lr is given twice"),
        ("output_dir: 2024-13-45", "month must be in 1..12"),
        (f"lr: {'[' * 3000}", "lists in lists without end"),
    ],
)
def test_a_bad_file_of_options_is_one_line(text, message, tmp_path):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as caught:
        COMMAND.read([*NEEDED, "--config", str(file)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_may_merge_a_mapping_into_its_own(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("<<: {lora_dim: 4, lr: 1}\nlora_dim: 3\n")
    options = COMMAND.read([*NEEDED, "--config", str(file)])
    assert (options.lora_dim, options.lr) == (3, 1.0)


def test_the_help_has_defaults_and_names_the_values():
    shown = COMMAND.parser().format_help()
    for words in ("--lora_scaling LORA_SCALING", "(default: 512.0)", "--config FILE"):
        assert words in shown


class Placed(Options):
    """Options of every way in which a command line gives them."""

    target: str | None = option(positional=True, required=True)
    others: tuple[int, ...] = option((), positional=True)
    weight: tuple[float, ...] = option((), repeat=True)
    vector: tuple[kinds.Vector, ...] = option((), repeat=True)
    quiet: bool = option(False)


PLACED = Program(Placed, "prog", "Do it.", "prog here")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", Placed(target="a")),
        ("a 1 2 --quiet", Placed(target="a", others=(1, 2), quiet=True)),
        ("--weight 1 a --weight -2e-1", Placed(target="a", weight=(1, -0.2))),
        ("--config {file} b 3 --weight 9", Placed(target="b", others=(3,), weight=(9,))),
        ("--config {file}", Placed(target="x", others=(5,), weight=(1, 2))),
    ],
)
def test_options_by_place_and_repeated(line, expected, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("target: x\nothers: [5]\nweight: [1, 2]\n")
    assert PLACED.read(line.format(file=file).split()) == expected


@pytest.mark.parametrize(
    "form", ["a=0.25,b=0.75", {"a": 0.25, "b": 0.75}, [0.25, 0.75], torch.tensor([0.25, 0.75])]
)
def test_a_preference_may_come_in_any_form(form):
    """The options have it as text, which can be recorded."""
    objectives = ("a", "b")
    fixed = DPOConfig(fixed_preference=form).fixed_preference
    (repeated,) = Placed(vector=[form]).vector
    assert isinstance(fixed, str) and fixed == repeated
    assert Placed(vector={"a": 0.25, "b": 0.75}).vector == ("a=0.25,b=0.75",)
    assert parse_preference(fixed, objectives).tolist() == [0.25, 0.75]
    with pytest.raises(UserError, match=r"--fixed_preference: .* is neither text"):
        DPOConfig(fixed_preference=[form])


def test_named_values_are_pairs():
    assert GRPOConfig(reward_scales={"a": 2}).reward_scales == (("a", 2),)
    for wrong in (3, ("a", 1, 2)):
        with pytest.raises(UserError, match="is not a pair of a name and a value"):
            GRPOConfig(reward_scales=[wrong])


def test_what_is_missing_or_wrong_by_place_is_named_without_a_flag(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("quiet: true\n")
    for words in ([], ["--config", str(file)]):
        with pytest.raises(SystemExit):
            PLACED.read(words)
        assert "arguments are required: target" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^target: must not be empty"):
        Placed(target=" ")
    assert PLACED.parser().format_usage().split() == (
        ["usage:", "prog", "[-h]", "[further", "options]", "target", "[others]"]
    )


def test_a_program_around_another_takes_its_own_words_and_leaves_the_rest():
    words = ["a", "--config", "f", "--weight", "2", "--lr", "1"]
    assert PLACED.read_own(words) == (
        Placed(target="a", weight=(2,)),
        ["--config", "f", "--lr", "1"],
    )


def test_the_ends_of_ranges_are_inside():
    words = "--lr 0 --weight_decay 0 --lr_warmup_ratio 1 --seed 4294967295 --lora_scaling 1e-9"
    args = COMMAND.parser().parse_args([*NEEDED, *words.split()])
    assert (args.lr, args.weight_decay, args.lr_warmup_ratio) == (0, 0, 1)
    assert (args.seed, args.lora_scaling) == (2**32 - 1, 1e-9)
    assert GRPOConfig(top_p="1", vertex_probability=0).top_p == 1


def test_negative_numbers_with_an_exponent_are_values():
    words = ["--reference_point", "-1e-3", "-.5", "--init_singular", "-2E+1"]
    args = COMMAND.parser().parse_args([*NEEDED, *words])
    assert args.reference_point == [-1e-3, -0.5]
    assert args.init_singular == -20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": float("nan")}, "--lr: nan is not a number of at least 0"),
        ({"epochs": 0}, "--epochs: 0 is not a positive integer"),
        ({"dirichlet_alpha": 2.0}, "--dirichlet_alpha belongs to --preference_sampler dirichlet"),
    ],
)
def test_what_another_parser_read_is_held_to_the_options(changes, message):
    parser = COMMAND.parser()
    args = parser.parse_args([*NEEDED, "--objectives", "a", "b"])
    DPOConfig.check_foreign(args)
    DPOConfig.check_foreign(argparse.Namespace(lr=1e-3, unknown=float("nan")))
    vars(args).update(changes)
    with pytest.raises(UserError) as caught:
        DPOConfig.check_foreign(args)
    assert message in str(caught.value)
