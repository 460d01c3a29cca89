"""Variants of one run: of typed options, and of those that Safe-RLHF's parser gives."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea.algorithms.dpo import COMMAND
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import variant_configs
from safe_rlhf_panacea.errors import UserError

NEEDED = ["--model_name_or_path", "m", "--train_datasets", "d", "--objectives", "a", "b"]


@pytest.mark.parametrize("as_namespace", [False, True])
def test_variants_are_options_of_their_own_and_checked(as_namespace):
    words = [*NEEDED, "--output_dir", "out", "--lora_dim", "3"]
    config = COMMAND.parser().parse_args(words) if as_namespace else COMMAND.read(words)
    found = variant_configs(config, vertices(["a", "b"]))
    assert [(name, made.fixed_preference) for name, made in found.items()] == [
        ("a", "a=1,b=0"),
        ("b", "a=0,b=1"),
    ]
    assert [made.output_dir for made in found.values()] == ["out/a", "out/b"]
    assert {made.lora_dim for made in found.values()} == {3}
    assert (config.output_dir, config.fixed_preference) == ("out", None)
    with pytest.raises(ValueError, match="sums to 2"):
        variant_configs(config, {"x": {"fixed_preference": "1,1"}})
    resumed = COMMAND.read([*words, "--resume"])
    with pytest.raises(UserError, match="--resume is of a single training"):
        variant_configs(resumed, {})
