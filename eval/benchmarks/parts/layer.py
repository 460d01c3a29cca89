"""The adapted layer, beside the frozen one and PEFT's; switching λ; responses at several λ."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import measuring
from benchmarks.inputs import MODELS, job_of, make_model
from benchmarks.measuring import Case, Contender

RANK = {"lora_dim": 8, "pref_dim": 2}
# (in, out) features, rows of a batch.
SHAPES = {
    "quick": [(32, 64, 16)],
    "cpu": [(256, 256, 1024), (256, 640, 1024), (576, 1536, 2048), (1536, 576, 2048)],
    "gpu": [(2048, 2048, 8192), (4096, 4096, 8192), (4096, 11008, 8192), (11008, 4096, 8192)],
}
WORK = {"cpu": 2e9, "cuda": 2e12}  # multiplications of a round, about
MOST_REPEATS = 50
# Of a 7B model; what a switch costs does not depend on their width.
BLOCKS, MATRICES = 32, 7
SWITCHES = 1000
PREFERENCES = 11
WAYS = ("one pass", "a pass for each λ", "a pass for each λ, merged")


def cases(args: Namespace) -> Iterator[Case]:
    """All shapes in one case: a layer is small, and a process takes seconds to start."""
    job = job_of(args, "layer", ["torch"], shapes=SHAPES[args.size])
    own = [*job["imports"], "safe_rlhf_panacea.adapter"]
    contenders = [
        Contender("this package", {**job, "kind": "panacea", "imports": own}),
        Contender("frozen layer", {**job, "kind": "frozen"}, ours=False),
    ]
    if measuring.installed("peft"):
        peft = [*job["imports"], "peft"]
        contenders += [
            Contender(f"PEFT {name}", {**job, "kind": kind, "imports": peft}, ours=False)
            for name, kind in (("LoRA", "lora"), ("AdaLoRA", "adalora"))
        ]
    yield Case(f"rank {sum(RANK.values())}", contenders)


def make_layer(kind: str, inputs: int, outputs: int, device: str) -> Any:
    """A frozen linear layer in a ``Sequential``, adapted or not; bfloat16 on an accelerator."""
    import torch
    from torch import nn

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype))
    layer.requires_grad_(False)
    if kind == "frozen":
        return layer
    if kind == "panacea":
        from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter

        adapter = inject_adapter(layer, AdapterConfig(**RANK, lora_module_name="0"))
        adapter.set_preference(torch.tensor([0.5, 0.5]))
        return layer
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    rank = sum(RANK.values())
    if kind == "lora":
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"])
    else:
        config = AdaLoraConfig(init_r=rank, target_r=rank, total_step=10**6, target_modules=["0"])
    return get_peft_model(layer, config).base_model.model


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """A layer of each shape, forward and backward."""
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


def switch_cases(args: Namespace) -> Iterator[Case]:
    """Another λ for all matrices of a 7B model."""
    job = job_of(args, "switch", ["torch", "safe_rlhf_panacea.adapter"])
    yield Case(f"{BLOCKS * MATRICES} matrices", [Contender("this package", job)])


def prepare_switch(job: dict[str, Any]) -> Callable[[Any], None]:
    """An adapter on as many matrices, and two λ in turn."""
    import torch
    from torch import nn

    from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter

    layers = (nn.Linear(8, 8, device=job["device"]) for _ in range(BLOCKS * MATRICES))
    model = nn.ModuleDict({"layers": nn.ModuleList(layers)})
    adapter = inject_adapter(model, AdapterConfig())
    preferences = [torch.tensor(values, device=job["device"]) for values in ([0.2, 0.8], [1.0, 0])]

    def work(watch: Any) -> None:
        turns = itertools.cycle(preferences)
        with watch.time("set λ", SWITCHES):
            for _ in range(SWITCHES):
                adapter.set_preference(next(turns))

    return work


def front_cases(args: Namespace) -> Iterator[Case]:
    """Every model; ``args.batch`` prompts at 11 λ."""
    imports = ["safe_rlhf_panacea.adapter", "safe_rlhf_panacea.forward.generation"]
    imports.append("transformers.models.llama.modeling_llama")
    for model in args.models:
        job = job_of(args, "front", imports, model=model)
        label = f"{model}, {args.batch} prompts, {PREFERENCES} λ"
        yield Case(label, [Contender(way, {**job, "way": way}) for way in WAYS])


def prepare_front(job: dict[str, Any]) -> Callable[[Any], None]:
    """A model with an adapter whose λ matters, prompts, and the λ."""
    import torch

    from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter

    try:
        from safe_rlhf_panacea.forward import SamplingConfig, generate
    except ImportError:  # an earlier checkout, measured beside this one
        from safe_rlhf_panacea.forward.generation import SamplingConfig
        from safe_rlhf_panacea.forward.generation import sample as generate

    model = make_model(job["model"], job["device"]).eval()
    adapter = inject_adapter(model, AdapterConfig(init_singular=0.01))
    vocab = MODELS[job["model"]]["vocab_size"]
    first = torch.linspace(0, 1, PREFERENCES, device=job["device"])
    grid = torch.stack([first, 1 - first], dim=-1)  # size = (N, 2)
    size = (job["batch"], job["longest"] // 4)
    prompts = torch.randint(4, vocab, size, device=job["device"])
    # No token ends a response: all ways draw equally many.
    config = SamplingConfig(max_length=job["longest"], eos_token_id=vocab, pad_token_id=0)

    def draw(ids: torch.Tensor, copies: int = 1) -> None:
        generate(model, ids, torch.ones_like(ids), config, noise_copies=copies)

    def work(watch: Any) -> None:
        with watch.time("all λ"):
            if job["way"] == WAYS[0]:
                with adapter.at(grid.repeat_interleave(len(prompts), dim=0)):
                    draw(prompts.repeat(PREFERENCES, 1), PREFERENCES)
                return
            held = adapter.at if job["way"] == WAYS[1] else adapter.merged
            for preference in grid:
                with held(preference):
                    draw(prompts)

    return work
