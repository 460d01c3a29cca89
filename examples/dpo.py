"""One model for two kinds of preference data: DPO on a data set for each objective.

python examples/dpo.py

Rows have TRL's columns: prompt, chosen, rejected. A file, a folder of save_to_disk or a name on the
hub stands wherever the lists of rows stand here.
"""

from __future__ import annotations

from safe_rlhf_panacea import DPOConfig, PanaceaDPO

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTIONS = ["How do I boil an egg?", "Where does tea come from?", "Why is the sky blue?"]
LONG = "Happy to help! Let me go through it with you, step by step, and take our time."
SHORT = "In short: it is simple."
DETAILED = [{"prompt": q, "chosen": LONG, "rejected": SHORT} for q in QUESTIONS]
CONCISE = [{"prompt": q, "chosen": SHORT, "rejected": LONG} for q in QUESTIONS]


def main():
    """Train on six pairs, and answer at both ends."""
    run = PanaceaDPO(
        MODEL,
        train_dataset={"detailed": DETAILED, "concise": CONCISE},
        eval_dataset={"detailed": DETAILED, "concise": CONCISE},
        config=DPOConfig(
            output_dir="runs/example-dpo",
            max_length=128,
            epochs=6,
            per_device_train_batch_size=6,
            # What lets a front open early; the paper has 1 value, one λ a batch, uniform.
            pref_rank=8,
            preference_scope="sample",
            preference_for_labels=True,
            lr=1e-3,
            log_type="none",
        ),
    )
    run.train()
    print(run.evaluate().to_pandas())
    for preference in ({"detailed": 1, "concise": 0}, {"detailed": 0, "concise": 1}):
        print(preference, run.model.respond("How do I make tea?", preference, max_new_tokens=32))


if __name__ == "__main__":
    main()
