"""The paper's way: a reward model for each objective from labelled pairs, then PPO with both.

python examples/reward_models_and_ppo.py
"""

from __future__ import annotations

from pathlib import Path

from safe_rlhf_panacea import PanaceaPPO, PPOConfig, RewardConfig, RewardModel

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
RUNS = Path("runs/example-ppo")
QUESTIONS = ["How do I boil an egg?", "Where does tea come from?", "Why is the sky blue?"]
WARM, TERSE = "With pleasure! Here is how.", "Read the manual."
# better_<objective> is 0 or 1: which of the two responses is better for it.
PAIRS = [
    {
        "prompt": question,
        "response_0": WARM,
        "response_1": TERSE,
        "better_friendly": 0,
        "better_terse": 1,
    }
    for question in QUESTIONS
]


def reward_model(objective):
    """Train the reward model of one objective; its folder."""
    config = RewardConfig(
        output_dir=RUNS / f"reward-{objective}",
        objective=objective,
        max_length=64,
        max_steps=4,
        per_device_train_batch_size=3,
        log_type="none",
    )
    return RewardModel(MODEL, PAIRS, config=config).train().output_dir


def main():
    """Two reward models, then the policy."""
    run = PanaceaPPO(
        MODEL,
        rewards={name: reward_model(name) for name in ("friendly", "terse")},
        train_dataset=[{"prompt": question} for question in QUESTIONS],
        config=PPOConfig(
            output_dir=RUNS / "panacea",
            max_length=64,
            max_steps=4,
            per_device_prompt_batch_size=3,
            per_device_train_batch_size=3,
            log_type="none",
        ),
    )
    run.train()
    print(run.model.respond("How do I make tea?", "friendly=0.8,terse=0.2", max_new_tokens=32))


if __name__ == "__main__":
    main()
