"""Forward and backward through one adapted layer, beside the frozen layer and PEFT's adapters."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks import finding
from benchmarks.measuring import Case, Contender

TITLE = "One layer, forward and backward"
RANK = {"lora_dim": 8, "pref_dim": 2}
# (in, out) features, rows of a batch.
SHAPES = {
    "quick": [(32, 64, 16)],
    "cpu": [(256, 256, 1024), (256, 640, 1024), (576, 1536, 2048), (1536, 576, 2048)],
    "gpu": [(2048, 2048, 8192), (4096, 4096, 8192), (4096, 11008, 8192), (11008, 4096, 8192)],
}
WORK = {"cpu": 2e9, "cuda": 2e12}  # multiplications of a round, about
MOST_REPEATS = 50


def cases(args: Namespace) -> list[Case]:
    """All shapes in one case: a layer is small, and a process takes seconds to start."""
    job = dict(part="layer", device=args.device, shapes=SHAPES[args.size], imports=["torch"])
    own = [*job["imports"], "safe_rlhf_panacea.adapter"]
    contenders = [
        Contender("this package", {**job, "kind": "panacea", "imports": own}),
        Contender("frozen layer", {**job, "kind": "frozen"}, ours=False),
    ]
    if finding.installed("peft"):
        peft = [*job["imports"], "peft"]
        contenders += [
            Contender(f"PEFT {name}", {**job, "kind": kind, "imports": peft}, ours=False)
            for name, kind in (("LoRA", "lora"), ("AdaLoRA", "adalora"))
        ]
    return [Case(f"rank {sum(RANK.values())}", contenders)]


def _panacea(model: Any) -> Any:
    import torch

    from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter

    adapter = inject_adapter(model, AdapterConfig(**RANK, lora_module_name="0"))
    adapter.set_preference(torch.tensor([0.5, 0.5]))
    return model


def _peft(model: Any, kind: str) -> Any:
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    rank = sum(RANK.values())
    if kind == "lora":
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"])
    else:
        config = AdaLoraConfig(init_r=rank, target_r=rank, total_step=10**6, target_modules=["0"])
    return get_peft_model(model, config).base_model.model


def make_layer(kind: str, inputs: int, outputs: int, device: str) -> Any:
    """A frozen linear layer in a ``Sequential``, adapted or not; bfloat16 on an accelerator."""
    import torch
    from torch import nn

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype))
    layer.requires_grad_(False)
    if kind == "frozen":
        return layer
    return _panacea(layer) if kind == "panacea" else _peft(layer, kind)


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A layer of each shape."""
    import torch

    made = []
    for inputs, outputs, rows in job["shapes"]:
        layer = make_layer(job["kind"], inputs, outputs, job["device"])
        like = next(layer.parameters())
        x = torch.randn(rows, inputs, device=like.device, dtype=like.dtype, requires_grad=True)
        above = torch.randn(rows, outputs, device=like.device, dtype=like.dtype)
        repeats = round(WORK[job["device"]] / (2 * inputs * outputs * rows))
        repeats = min(max(1, repeats), MOST_REPEATS)
        made.append((f"{inputs} to {outputs}, {rows} rows", layer, x, above, repeats))

    def work(watch: Any) -> None:
        for name, layer, x, above, repeats in made:
            leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
            with watch.time(name, repeats):
                for _ in range(repeats):
                    torch.autograd.grad(layer(x), leaves, above, allow_unused=True)

    return work
