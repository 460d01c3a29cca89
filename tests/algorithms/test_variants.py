"""Variants of one run: from Python, and of the options that Safe-RLHF's parser gives."""

from __future__ import annotations

import pytest

from safe_rlhf_panacea import DPOConfig, PanaceaDPO, RewardedSoups
from safe_rlhf_panacea.algorithms.dpo.main import COMMAND
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import variant_configs
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json

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


def test_soups_from_python_go_on_where_they_were_interrupted(base_model, pairs, tmp_path, capsys):
    config = DPOConfig(
        output_dir=str(tmp_path / "soups"),
        objectives=("helpful", "harmless"),
        max_steps=1,
        max_length=32,
        per_device_train_batch_size=4,
        log_type="none",
        progress=False,
    )

    def soups(**changes):
        return RewardedSoups(PanaceaDPO, base_model, pairs, config=config.with_(**changes))

    found = soups().train()
    record = tmp_path / "soups" / "harmless" / "run.json"
    assert read_json(record)["args"]["fixed_preference"] == "helpful=0,harmless=1"
    assert found.model.respond("c", {"helpful": 0.5, "harmless": 0.5}, max_new_tokens=1) is not None
    values = read_json(record)
    del values["finished_at"]
    atomic_write_json(record, values)  # as an interruption leaves it
    capsys.readouterr()
    soups().train()
    text = capsys.readouterr().out
    assert "helpful: done already" in text and "harmless was interrupted; kept as" in text
    assert "finished_at" in read_json(record)
    with pytest.raises(UserError, match="--resume is of a single training"):
        soups(resume=True)
