"""Sizes and hyperparameters of the miniature, which were chosen on other seeds and prompts.

They depart from the paper's Tables 1 and 2 because the model is five orders of magnitude
smaller: larger learning rates, one λ per sequence, rewards standardised instead of multiplied
by 5. ``REASONS`` goes into every results file.
"""

from __future__ import annotations

from dataclasses import dataclass

OBJECTIVES = ("helpful", "harmless")

# Of the hypervolumes. Fixed: rounded down from the worst value that any method's front had on
# the seeds used for choosing hyperparameters (in standard deviations of the SFT model's rewards,
# in the corpus's own units, as accuracy).
REFERENCE_POINTS = {
    "ppo": (-1.75, -1.25),
    "ppo_true_scores": (-1.5, -2.0),
    "dpo": (0.25, 0.25),
    "three": (-1.75, -1.25, -2.0),  # and conciseness
}

REASONS = (
    "learning rates are larger than the paper's: the model is five orders of magnitude smaller",
    "one λ per sequence, stratified, instead of one per batch: few steps see more of the simplex",
    "rewards are standardised on samples of the SFT model instead of multiplying one by 5",
    "the quickstart takes two PPO updates per rollout, which halves the time for generation",
    "no PTX loss: the corpus is the SFT model's own",
    "soups and Panacea have equal total training steps",
)


@dataclass(frozen=True)
class MiniatureSettings:
    """What the stages of the miniature use.

    Attributes:
        sft_steps: steps of supervised fine-tuning, ``sft_batch`` sequences each.
        reward_steps: steps of each reward model, ``reward_batch`` pairs each.
        dpo_steps: Panacea-DPO's steps; the soups share the same number.
        ppo_steps: Panacea-PPO's steps; the soups share the same number.
        update_iters: steps taken on every rollout.
        grid_step: step of the evaluation grid on the simplex.
        eval_prompts: prompts on which a PPO front is evaluated.
        eval_repeats: responses per prompt and λ in a PPO front.
        eval_pairs: pairs on which a DPO front is evaluated.
        eval_interval: steps between the fronts that Panacea-PPO shows on its way; 0 for none.
        prompts_on_the_way: prompts on which these are measured.
        grpo_steps: Panacea-GRPO's steps, ``update_iters`` on every rollout.
        grpo_prompts: prompts in a rollout, with ``grpo_responses`` to each.
        preference_scope: ``sample`` or ``batch``.
        preference_sampler: how Panacea's λ are drawn.
    """

    sft_steps: int = 350
    sft_batch: int = 32
    sft_lr: float = 5e-3
    reward_steps: int = 200
    reward_batch: int = 16
    reward_lr: float = 2e-3
    calibration_prompts: int = 256
    lora_dim: int = 8
    lora_scaling: float = 512.0
    dpo_steps: int = 300
    dpo_batch: int = 16
    dpo_lr: float = 3e-3
    ppo_steps: int = 120
    ppo_batch: int = 64
    ppo_lr: float = 5e-3
    critic_lr: float = 5e-3
    update_iters: int = 1
    kl_coeff: float = 0.02
    grpo_steps: int = 96
    grpo_prompts: int = 16
    grpo_responses: int = 4
    grpo_batch: int = 64
    grpo_lr: float = 5e-3
    grpo_kl_coeff: float = 0.02
    preference_scope: str = "sample"
    preference_sampler: str = "stratified"
    grid_step: float = 0.1
    eval_prompts: int = 144
    eval_repeats: int = 4
    eval_pairs: int = 1500
    eval_interval: int = 0
    prompts_on_the_way: int = 64


# The quickstart's: two steps to a rollout, less of the rest than the front benchmark, so that two
# cores need five minutes.
QUICK = MiniatureSettings(
    reward_steps=160,
    dpo_steps=160,
    ppo_steps=192,
    update_iters=2,
    eval_repeats=1,
    eval_pairs=300,
    eval_interval=96,
)

# The launchers': half of the quickstart's PPO, and more of DPO and rewards, which cost little.
LAUNCHED = MiniatureSettings(dpo_steps=200, ppo_steps=96, update_iters=2, eval_interval=24)

# A few steps of everything.
SMOKE = MiniatureSettings(
    sft_steps=4,
    reward_steps=2,
    calibration_prompts=16,
    dpo_steps=2,
    ppo_steps=2,
    ppo_batch=8,
    grid_step=0.5,
    eval_prompts=8,
    eval_repeats=1,
    eval_pairs=16,
    eval_interval=2,
    prompts_on_the_way=4,
)
