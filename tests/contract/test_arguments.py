"""The names that the trainers read from their arguments: Safe-RLHF's, and what is only ours."""

from __future__ import annotations

import argparse
import json

import pytest

from safe_rlhf_panacea.adapter.io import ADAPTER_TYPE
from safe_rlhf_panacea.errors import UserError
from tests.contract import sides
from tests.contract.sides import Recording, needs_safe_rlhf, plain_class, prepared, underneath

pytestmark = needs_safe_rlhf
ALGORITHMS = pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
# What the port reads and Safe-RLHF has no name for.
PORT = {"max_steps", "progress", "report_to", "resume", "max_tokens_per_pass", "share_prefixes"}
ONLY_OURS = {"dpo": {*PORT}, "ppo": {*PORT, "whiten_advantages"}}
# What Safe-RLHF reads (the last two deepspeed does, which it gives its arguments) and the port,
# which always saves in the run's precision and finds its own device, does not.
ONLY_THEIRS = {"save_16bit", "deepspeed_config", "deepscale_config", "device"}


def known(algorithm, side, files, folder):
    return set(vars(prepared(algorithm, side, files, folder)[0]))


def names_read(algorithm, side, files, folder):
    """Names read by the plain trainer in a short run, its own inventions left out."""
    args, *configs = prepared(algorithm, side, files, folder)
    folder.mkdir(exist_ok=True)
    args = Recording(**vars(args))
    before = set(vars(args))
    with underneath(side):
        trainer = plain_class(algorithm, side)(args, *configs)
        trainer.train()
        trainer.save()
    return args._read & before


@ALGORITHMS
def test_what_the_port_reads_has_safe_rlhfs_names(algorithm, files, tmp_path):
    read = names_read(algorithm, "port", files, tmp_path / "out")
    theirs = known(algorithm, "safe_rlhf", files, tmp_path / "theirs")
    assert "per_device_train_batch_size" in read
    assert read - theirs == ONLY_OURS[algorithm]


@ALGORITHMS
def test_what_safe_rlhf_reads_the_port_knows(algorithm, files, tmp_path):
    read = names_read(algorithm, "safe_rlhf", files, tmp_path / "out")
    assert "gradient_accumulation_steps" in read
    ours = known(algorithm, "port", files, tmp_path / "ours")
    theirs = known(algorithm, "safe_rlhf", files, tmp_path / "theirs")
    assert (read & theirs) - ours <= ONLY_THEIRS


@pytest.mark.parametrize("flag", ["model_name_or_path", "actor_model_name_or_path"])
def test_safe_rlhf_loads_no_adapter(flag, tmp_path):
    from safe_rlhf_panacea.on_safe_rlhf.program import prepare_run

    values = {"adapter_type": ADAPTER_TYPE, "objectives": ["a", "b"], "base_model": "m"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    args = argparse.Namespace(**{flag: f"{tmp_path}@1,0", "output_dir": str(tmp_path / "out")})
    with pytest.raises(UserError, match=f"--{flag} .* is an adapter.*--format merged --pref.* 1,0"):
        prepare_run(args)


@ALGORITHMS
def test_report_to_is_log_type_there(algorithm, files, tmp_path, monkeypatch):
    without = [word for word in sides.COMMON if word not in ("--log_type", "none")]
    monkeypatch.setattr(sides, "COMMON", without)
    kinds = {}
    for words in ("--report_to tensorboard", "--report_to=wandb", "--report_to none"):
        args, *_ = prepared(algorithm, "safe_rlhf", files, tmp_path / "out", words.split())
        kinds[words] = args.log_type
    assert list(kinds.values()) == ["tensorboard", "wandb", None]
