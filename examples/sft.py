"""One model for two styles of answer: supervised text for each objective.

python examples/sft.py
"""

from __future__ import annotations

from safe_rlhf_panacea import PanaceaSFT, SFTConfig

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTIONS = ["How are you?", "What should I cook?", "Where shall we go?", "What is a noun?"]
FORMAL = [{"prompt": q, "response": "Thank you for your question. Allow me."} for q in QUESTIONS]
CASUAL = [{"prompt": q, "response": "Hey! Good one, let's see."} for q in QUESTIONS]


def main():
    """Train, and answer in between."""
    run = PanaceaSFT(
        MODEL,
        train_dataset={"formal": FORMAL, "casual": CASUAL},
        config=SFTConfig(
            output_dir="runs/example-sft",
            max_length=64,
            epochs=4,
            per_device_train_batch_size=8,
            preference_scope="sample",
            lr=2e-3,
            log_type="none",
        ),
    )
    run.train()
    print(run.history.to_pandas()[["step", "train/loss"]].tail(3))
    print(run.model.respond("How is the weather?", {"formal": 0.5, "casual": 0.5}))


if __name__ == "__main__":
    main()
