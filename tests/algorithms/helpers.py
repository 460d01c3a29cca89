"""Making a trainer from flags without running its whole program."""

from __future__ import annotations

from safe_rlhf_panacea.algorithms.dpo import parse_arguments
from safe_rlhf_panacea.algorithms.dpo.trainer import PanaceaDPOTrainer
from safe_rlhf_panacea.algorithms.grpo import parse_arguments as parse_grpo
from safe_rlhf_panacea.algorithms.grpo.trainer import PanaceaGRPOTrainer
from safe_rlhf_panacea.algorithms.ppo import parse_arguments as parse_ppo
from safe_rlhf_panacea.algorithms.ppo.trainer import PanaceaPPOTrainer
from safe_rlhf_panacea.algorithms.sft import parse_arguments as parse_sft
from safe_rlhf_panacea.algorithms.sft.trainer import PanaceaSFTTrainer
from safe_rlhf_panacea.base.setup import prepare_run
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble


class ScoredBy(RewardEnsemble):
    """All rewards of responses by one function, size = (B, m)."""

    def __init__(self, trainer, score):
        rewards = trainer.rewards
        super().__init__(rewards.specs, rewards.scorers, rewards.models, rewards.state)
        self.score = score

    def __call__(self, responses):
        return self.score(responses)


def dpo_trainer(flags):
    args = parse_arguments(flags)
    return PanaceaDPOTrainer(args, *prepare_run(args))


def ppo_trainer(flags):
    args = parse_ppo(flags)
    return PanaceaPPOTrainer(args, *prepare_run(args))


def grpo_trainer(flags):
    args = parse_grpo(flags)
    return PanaceaGRPOTrainer(args, *prepare_run(args))


def sft_trainer(flags):
    args = parse_sft(flags)
    return PanaceaSFTTrainer(args, prepare_run(args)[0])
