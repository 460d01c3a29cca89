"""One model for two rewards, brief and lively: GRPO with two Python functions.

python examples/grpo.py

Needs a few minutes on a CPU and the model from the hub, or a folder in its place in MODEL.
"""

from __future__ import annotations

from datasets import Dataset

from safe_rlhf_panacea import GRPOConfig, PanaceaGRPO

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
TOPICS = ["breakfast", "a rainy day", "a long train ride", "learning to swim", "an old bicycle"]
PROMPTS = Dataset.from_dict({"prompt": [f"Tell me about {topic}." for topic in TOPICS]})


def brief(responses, **_):
    """Short answers: minus a point for every forty words."""
    return [-len(response.split()) / 40 for response in responses]


def lively(responses, **_):
    """Exclamation marks, at most three that count."""
    return [min(response.count("!"), 3) / 3 for response in responses]


def main():
    """Train, measure the front, and answer at three preferences."""
    run = PanaceaGRPO(
        MODEL,
        rewards={"brief": brief, "lively": lively},
        train_dataset=PROMPTS,
        eval_dataset=PROMPTS.select(range(3)),
        config=GRPOConfig(
            output_dir="runs/example-grpo",
            max_length=96,
            max_steps=16,
            per_device_prompt_batch_size=4,
            per_device_train_batch_size=8,
            num_return_sequences=4,
            gradient_accumulation_steps=2,
            log_type="none",
        ),
    )
    run.train()
    print(run.evaluate().to_pandas())
    for preference in ({"brief": 1, "lively": 0}, [0.5, 0.5], "brief=0,lively=1"):
        answer = run.model.respond("Tell me about tea.", preference, max_new_tokens=32)
        print(f"{preference}: {answer}")


if __name__ == "__main__":
    main()
