"""The command lines of the short trainings whose every step is compared."""

from __future__ import annotations

from pathlib import Path

from safe_rlhf_panacea.regression.tiny_world import MAX_LENGTH, OBJECTIVES, TinyWorld

STEPS = 20
BATCH = 8
# 20 steps of this size leave the start, at which σ and s are 0, far behind.
RATE = "5e-3"

# What each recorded run adds to the common flags: between them, λ per batch and per sequence, both
# aggregations, and PPO with one and with two updates for each rollout.
RECORDED = {
    "dpo": [],
    "dpo-per-sample": ["--preference_scope", "sample", "--aggregation", "tche"],
    "ppo": [],
    "ppo-per-sample": [
        *("--preference_scope", "sample", "--aggregation", "tche"),
        *("--update_iters", "2", "--whiten_advantages"),
    ],
}


def algorithm_of(name: str) -> str:
    """``dpo`` or ``ppo``, with which the names of runs begin."""
    return name[:3]


def common_flags(algorithm: str) -> list[str]:
    """What all runs of an algorithm share, whatever folder they are in."""
    flags = [
        *("--max_length", str(MAX_LENGTH), "--max_steps", str(STEPS)),
        *("--per_device_train_batch_size", str(BATCH), "--gradient_accumulation_steps", "1"),
        *("--log_type", "none", "--progress", "false", "--seed", "42"),
    ]
    if algorithm == "dpo":
        return ["--objectives", *OBJECTIVES, "--scale_coeff", "0.1", "--lr", RATE, *flags]
    return [
        *("--reward_signs", "harmless=-1", "--reward_scales", "harmless=2"),
        *("--reward_shifts", "helpful=0.5", "--kl_coeff", "0.02"),
        *("--actor_lr", RATE, "--critic_lr", RATE),
        *("--per_device_prompt_batch_size", str(BATCH), *flags),
    ]


def flags_of(
    algorithm: str, world: TinyWorld, output: Path, extra: list[str], *, even: bool = False
) -> list[str]:
    """A whole command line; of a flag given twice the last one counts.

    Args:
        algorithm: ``dpo`` or ``ppo``.
        world: models and data.
        output: the run's folder.
        extra: further flags.
        even: data on which the cut into batches makes no difference: every pair labelled by both
            objectives, every prompt of one length.
    """
    if algorithm == "dpo":
        data = world.pairs if even else world.gaps
        paths = ["--model_name_or_path", str(world.base), "--train_datasets", f"pairs:1:{data}"]
    else:
        data = world.even_prompts if even else world.prompts
        models = [f"{name}={folder}" for name, folder in world.rewards.items()]
        paths = ["--actor_model_name_or_path", str(world.base), "--reward_models", *models]
        # The parser's default when the references were recorded, so that theirs do not name it.
        paths += ["--train_datasets", f"prompts:1:{data}", "--critic_lr_scheduler_type", "cosine"]
    return [*paths, "--output_dir", str(output), *common_flags(algorithm), *extra]
