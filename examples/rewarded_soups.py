"""The baseline beside Panacea: Rewarded Soups on the same data, and both at the same preference.

python examples/rewarded_soups.py
"""

from __future__ import annotations

from safe_rlhf_panacea import DPOConfig, PanaceaDPO, RewardedSoups

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LONG, SHORT = "Let me explain this to you in some detail.", "It is simple."
QUESTIONS = ["How do I boil an egg?", "Where does tea come from?", "Why is the sky blue?"]
PAIRS = {
    "detailed": [{"prompt": q, "chosen": LONG, "rejected": SHORT} for q in QUESTIONS],
    "concise": [{"prompt": q, "chosen": SHORT, "rejected": LONG} for q in QUESTIONS],
}


def config(name, lora_dim, epochs):
    """The options of both, at equal total steps."""
    return DPOConfig(
        output_dir=f"runs/example-soups/{name}",
        lora_dim=lora_dim,
        epochs=epochs,
        max_length=64,
        per_device_train_batch_size=6,
        log_type="none",
    )


def main():
    """Train both, and answer in the middle of the front."""
    panacea = PanaceaDPO(MODEL, PAIRS, config=config("panacea", 8, 4)).train()
    # k + 1 singular values where Panacea has k + m (appendix D).
    soups = RewardedSoups(PanaceaDPO, MODEL, PAIRS, config=config("soups", 9, 4)).train()
    for name, model in (("Panacea", panacea.model), ("Rewarded Soups", soups.model)):
        print(name, model.respond("How do I make tea?", [0.5, 0.5], max_new_tokens=24))


if __name__ == "__main__":
    main()
