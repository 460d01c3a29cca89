"""Panacea-PPO with every weight sharded, also ones as small as a test's; run under torchrun."""

from __future__ import annotations

import sys

from safe_rlhf_panacea import dashboard as writers
from safe_rlhf_panacea.algorithms.ppo import main
from safe_rlhf_panacea.base import setup

whole = setup.get_deepspeed_train_config


def sharded(*args, **kwargs):
    """DeepSpeed keeps small weights whole, unless told otherwise."""
    config = whole(*args, **kwargs)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


if __name__ == "__main__":
    setup.get_deepspeed_train_config = sharded
    writers.render = lambda *_, **__: ""  # drawing takes longer than training here
    main(sys.argv[1:])
