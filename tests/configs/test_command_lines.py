"""The types of flags, and the parser under them."""

from __future__ import annotations

import argparse

import pytest

from safe_rlhf_panacea.algorithms.dpo import COMMAND
from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.algorithms import DPOConfig
from safe_rlhf_panacea.configs.options import check_numbers
from safe_rlhf_panacea.errors import UserError

NEEDED = ["--model_name_or_path", "m", "--objectives", "a", "b"]
NEEDED += ["--train_datasets", "x", "--output_dir", "y"]


def test_the_ends_of_ranges_are_inside():
    words = "--lr 0 --weight_decay 0 --lr_warmup_ratio 1 --seed 4294967295 --lora_scaling 1e-9"
    args = COMMAND.parser().parse_args([*NEEDED, *words.split()])
    assert (args.lr, args.weight_decay, args.lr_warmup_ratio) == (0, 0, 1)
    assert (args.seed, args.lora_scaling) == (2**32 - 1, 1e-9)
    assert (kinds.share("1"), kinds.probability("0")) == (1, 0)


def test_negative_numbers_with_an_exponent_are_values():
    words = ["--reference_point", "-1e-3", "-.5", "--init_singular", "-2E+1"]
    args = COMMAND.parser().parse_args([*NEEDED, *words])
    assert args.reference_point == [-1e-3, -0.5]
    assert args.init_singular == -20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": float("nan")}, "--lr: nan is not a number of at least 0"),
        ({"seed": -1}, "--seed: -1 is not a seed"),
        ({"epochs": 0}, "--epochs: 0 is not a positive integer"),
        ({"lr_warmup_ratio": 1.5}, "--lr_warmup_ratio: 1.5 is not between 0 and 1"),
    ],
)
def test_numbers_that_another_parser_read(changes, message):
    parser = COMMAND.parser()
    args = parser.parse_args(NEEDED)
    check_numbers(DPOConfig, args)
    check_numbers(DPOConfig, argparse.Namespace(lr=1e-3, unknown=float("nan")))
    vars(args).update(changes)
    with pytest.raises(UserError) as caught:
        check_numbers(DPOConfig, args)
    assert message in str(caught.value)
