"""Whether a GPU, and bfloat16, give what a CPU gives in float32.

Two steps of Panacea-DPO's loss from the same weights, since σ and s start at 0 and U and V have no
gradient before they move; then greedy responses at two λ in one batch.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from typing import Any

import torch
from part import Row, device_of, run_part
from transformers import LlamaConfig, LlamaForCausalLM

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.forward import SamplingConfig, generate, log_probs

# Relative to the CPU in float32: of the sums of log-probabilities, and of the gradients' norm.
TOLERANCES = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}
PREFERENCES = torch.tensor([[0.9, 0.1], [0.2, 0.8]])


def steps(model: Any, device: str, dtype: torch.dtype, tiny: bool) -> dict[str, Any]:
    """Log-probabilities and gradients after two steps, and greedy tokens."""
    model = copy.deepcopy(model).to(device, dtype)
    torch.manual_seed(2)  # U and V: drawn on the CPU, so that all begin alike
    adapter = inject_adapter(model.cpu(), AdapterConfig(objectives=("a", "b")))
    model.to(device)
    # Four rows of different lengths, padded on the right; size = (4, L).
    length = 16 if tiny else 256
    ids = torch.randint(3, 500, (4, length), generator=torch.Generator().manual_seed(1)).to(device)
    ends = torch.tensor([length, length // 2, length - 3, length // 3])
    mask = (torch.arange(length) < ends.unsqueeze(1)).to(device)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, fused=True)
    with adapter.at(PREFERENCES.repeat(2, 1).to(device)):
        for step in range(3):
            optimizer.zero_grad()
            sums = log_probs(model, ids, mask, mask[:, 1:]).sum(dim=1)
            (sums * torch.tensor([1.0, -1, 0.5, -0.5], device=device)).mean().backward()
            if step < 2:
                optimizer.step()
    config = SamplingConfig(ids.size(1) // 2 + 8, 2, 0, temperature=0)
    prompts = ids[:2, : ids.size(1) // 2]
    with adapter.at(PREFERENCES.to(device)):
        tokens, _ = generate(model, prompts, torch.ones_like(prompts, dtype=torch.bool), config)
    gradient = torch.cat([p.grad.flatten().double().cpu() for p in adapter.parameters()])
    return {"sums": sums.detach().double().cpu(), "gradient": gradient, "tokens": tokens.cpu()}


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """Each type on the device; without a GPU bfloat16 alone is another computation."""
    torch.manual_seed(0)
    width, layers, vocab = (64, 2, 512) if args.tiny else (1024, 8, 32000)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=512,
    )
    device, model = device_of(), LlamaForCausalLM(config).eval()
    expected = steps(model, "cpu", torch.float32, args.tiny)
    for name in TOLERANCES if device == "cuda" else ("bfloat16",):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        found = steps(model, device, dtype, args.tiny)
        # Norms of the differences, relative to the norms.
        sums, gradient = (
            ((found[key] - expected[key]).norm() / expected[key].norm()).item()
            for key in ("sums", "gradient")
        )
        agree = found["tokens"].eq(expected["tokens"]).float().mean().item()
        yield {
            "type": name,
            "log-probabilities": sums,
            "gradients": gradient,
            "greedy tokens alike": agree,
            "tolerance": TOLERANCES[name],
            "right": max(sums, gradient) < TOLERANCES[name],
        }


if __name__ == "__main__":
    raise SystemExit(run_part("equal", "Relative differences from the CPU in float32", rows))
