"""The kinds of adapters that a recorded set holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from safe_rlhf_panacea.adapter import AdapterConfig

VOCAB, WIDTH = 24, 16
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "config": {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "seed": 1,
    "std": 0.25,
    "dtype": "float32",
}
TWO_LAYERS = {**LLAMA, "config": {**LLAMA["config"], "num_hidden_layers": 2}}
# Its linear layers are transformers' Conv1D, which keeps the transpose.
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "config": {
        "vocab_size": VOCAB,
        "n_embd": WIDTH,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "seed": 2,
    "std": 0.25,
    "dtype": "float32",
}
OBJECTIVES = ("helpful", "harmless", "concise")
# factor 2.5: neither 1 nor lora_scaling, nor a power of two.
TWO = AdapterConfig(lora_dim=4, pref_dim=2, lora_scaling=10.0, objectives=OBJECTIVES[:2])
THREE = replace(TWO, pref_dim=3, objectives=OBJECTIVES)
INGREDIENT = replace(TWO, pref_dim=0, objectives=())


@dataclass(frozen=True)
class Case:
    """One kind of adapter.

    Attributes:
        what: it is, in words.
        base: recipe of the model that it is measured on.
        config: of the adapter, or of each ingredient of the soup.
        saved_in: the type of its tensors.
        soup: whether there is one ingredient per objective.
    """

    what: str
    base: dict[str, Any]
    config: AdapterConfig
    saved_in: str = "float32"
    soup: bool = False

    @property
    def objectives(self) -> tuple[str, ...]:
        """In the order of λ."""
        return OBJECTIVES[:2] if self.soup else self.config.objectives

    @property
    def gap(self) -> float:
        """Pairs whose margin is nearer to 0 are left out of the front: rounding may turn them."""
        return 0.5 if self.base["dtype"] == "bfloat16" else 0.02


CASES = {
    "llama-m2": Case("two objectives", TWO_LAYERS, TWO),
    "llama-m3": Case("three objectives", LLAMA, THREE),
    "llama-m3-scaling-per-objective": Case(
        "one s per objective", LLAMA, replace(THREE, scaling_per_objective=True)
    ),
    "llama-m2-fixed-scaling": Case("s fixed", LLAMA, replace(TWO, fixed_scaling=0.7)),
    "gpt2-m2": Case("on Conv1D layers", GPT2, replace(TWO, lora_module_name="h.")),
    "llama-m2-bf16": Case(
        "saved and used in bfloat16", {**LLAMA, "dtype": "bfloat16"}, TWO, "bfloat16"
    ),
    "llama-m2-bf16-in-fp32": Case("saved in bfloat16, used in float32", LLAMA, TWO, "bfloat16"),
    "llama-soup": Case("a soup of two plain adapters", LLAMA, INGREDIENT, soup=True),
}
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.15}
REASON = (
    "In float32 the order of sums differs between processors and library versions by about 1e-6 "
    "here, while a factor that is wrong by a thousandth moves a logit by more than 1e-3. In "
    "bfloat16 one step is up to 0.03 at these logits, and a few of them add up. Pairs whose "
    "margin is near 0 were left out, so that no accuracy moves at all."
)
