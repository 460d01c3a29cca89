"""What the models of a training and the parts of its step hold, by running them without memory.

The parts use the trainers' own functions, and run alike on models with weights and on fake ones.
Sequences share no beginning here, which depends on the data and holds no more.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.product import onednn_is_faster
from safe_rlhf_panacea.adapter.state import PreferenceState
from safe_rlhf_panacea.base.engine import set_gradient_checkpointing
from safe_rlhf_panacea.forward import PassOptions, log_probs, set_pass_options
from safe_rlhf_panacea.forward.decoding import preallocated_cache
from safe_rlhf_panacea.forward.generation import invert
from safe_rlhf_panacea.models import AutoModelForScore

if TYPE_CHECKING:
    from safe_rlhf_panacea.memory.__main__ import MemoryOptions

aten = torch.ops.aten


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end.

    With torch's fake tensors, which have no memory, a training step says what it would hold,
    however large the model is. Masks and token ids stay real, so that what depends on lengths
    runs as it is. ``now`` bytes are alive, ``peak`` at most since ``restart``; ``wide`` and
    ``widest`` are those in tensors whose last dimension is ``width`` or more, such as logits.
    """

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        self.width = width
        self.now = self.peak = self.wide = self.widest = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Begin to look for a peak anew."""
        self.peak, self.widest = self.now, self.wide

    def _forget(self, key: int, size: int, wide: int) -> None:
        self._known.discard(key)
        self.now -= size
        self.wide -= wide

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is aten.equal.default:
            return True  # of values that are not there; the step asks it of one and the same head
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            indices: list[Any] = []
            for index in args[1]:
                # A mask as positions: a fake tensor does not know how many it would find in it.
                is_mask = isinstance(index, torch.Tensor) and index.dtype == torch.bool
                indices += index.nonzero(as_tuple=True) if is_mask else [index]
            args = (args[0], indices, *args[2:])
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._known:
                wide = size if leaf.dim() > 1 and leaf.size(-1) >= self.width > 0 else 0
                self._known.add(key)
                self.now += size
                self.wide += wide
                weakref.finalize(storage, self._forget, key, size, wide)
        self.peak, self.widest = max(self.peak, self.now), max(self.widest, self.wide)
        return result


class Models:
    """The models of a training: policy, score models, and the critic, with adapters where they go.

    ``policy`` and ``rewards`` are configurations. ``state`` is the adapters' λ, a real tensor, as
    layers look at its values. Without a ``device`` there are no weights, else random ones.
    """

    def __init__(
        self,
        args: MemoryOptions,
        state: PreferenceState,
        policy: Any,
        rewards: Sequence[Any],
        device: str | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM

        from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic, shared_copy, value_model

        names = tuple(f"objective-{i}" for i in range(args.objectives))
        config = AdapterConfig(
            args.lora_dim, args.objectives, lora_module_name=args.lora_module_name, objectives=names
        )
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        self.critic: Any = None
        with torch.device("meta"):
            self.policy: Any = AutoModelForCausalLM.from_config(policy, dtype=dtype)
            self.rewards: list[Any] = [
                AutoModelForScore.from_config(one, dtype=dtype).eval().requires_grad_(False)
                for one in rewards
            ]
            if args.algorithm == "ppo" and not rewards:  # before the policy's layers are adapted
                self.critic = value_model(shared_copy(self.policy.base_model))
            self.adapter = inject_adapter(self.policy, config, state)
            if args.algorithm == "ppo" and rewards:
                adapter = inject_adapter(self.rewards[0], config, state)
                self.critic = RewardCritic(self.rewards[0], adapter)
            elif args.algorithm == "ppo":
                inject_adapter(self.critic, config, state)
                self.critic.score_head.requires_grad_(True)
        # All of them; some share parameters.
        models = (self.policy, self.critic, *self.rewards)
        self.all = nn.ModuleList([model for model in models if model is not None])
        with nullcontext() if device else FakeTensorMode(allow_non_fake_inputs=True):
            self._fill(device or "cpu")
            self.trained = [p for p in self.all.parameters() if p.requires_grad]  # each once
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter)
        # Passes as they would be cut, and attend, on the device that is planned for.
        most = PassOptions(args.max_tokens_per_pass).most_tokens(torch.device(args.device))
        for model in self.all:
            set_pass_options(model, PassOptions(most, write_out_attention=args.device == "cpu"))

    def _fill(self, device: str) -> None:
        """Random tensors, or fake ones, for those on the meta device, which masks cannot join."""
        # First all are found: a tensor that is gone could leave its id to another.
        modules = self.all.modules()
        tables: list[dict[str, Any]] = [t for m in modules for t in (m._parameters, m._buffers)]
        places = [(t, n, v) for t in tables for n, v in t.items() if v is not None]
        made: dict[int, torch.Tensor] = {}
        for table, name, tensor in places:
            if id(tensor) not in made:
                new = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                new = new.normal_(std=0.02) if new.is_floating_point() else new.zero_()
                if isinstance(tensor, nn.Parameter):
                    new = nn.Parameter(new, tensor.requires_grad)
                made[id(tensor)] = new
            table[name] = made[id(tensor)]


@dataclass(frozen=True)
class Part:
    """A part of a training step: bytes above what is there all the time, at most."""

    kept: int  # activations of the whole pass stay for the backward pass
    recomputed: int  # with gradient checkpointing
    logits: int  # in tensors as wide as the vocabulary, of either


@dataclass(frozen=True)
class Held:
    """Everything as one card without ZeRO has it."""

    models: int  # backbones
    engines: int  # trained models, each with an optimiser
    weights: int  # bytes of all models, buffers included, adapters not
    trained: int  # elements of adapters and value head
    element: int  # bytes of a weight
    largest: int  # bytes of the largest model
    parts: dict[str, Part]  # of the step, by name


def padded(
    lengths: Sequence[int], device: Any = "cpu", prompt_length: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and mask, size = (B, L), and what counts, size = (B, L - 1), of rows so long.

    They are padded on the right; tokens of the prompt do not count.
    """
    ends = torch.tensor(lengths, device=device).unsqueeze(1)
    mask = torch.arange(max(lengths), device=device) < ends
    counted = mask[:, 1:].clone()
    counted[:, : prompt_length - 1] = False
    return torch.zeros(mask.shape, dtype=torch.long, device=device), mask, counted


def lengths_of(rows: int, max_length: int, mean_length: float) -> list[int]:
    """One row of the largest length, the others so that the mean is right: padding is not free."""
    rest = (mean_length * rows - max_length) / max(1, rows - 1)
    return [max_length] + [min(max_length, max(1, round(rest)))] * (rows - 1)


def _parts(
    models: Models, state: PreferenceState, args: MemoryOptions
) -> dict[str, Callable[[], None]]:
    """The parts of a step by name, in their order."""
    rows = args.per_device_train_batch_size
    sequences = 2 * rows if args.algorithm == "dpo" else rows
    policy, adapter, critic = models.policy, models.adapter, models.critic
    lengths = lengths_of(sequences, args.max_length, args.mean_length or args.max_length)
    ids, mask, counted = padded(lengths, policy.device, args.prompt_length)

    @torch.no_grad()
    def generation() -> None:
        """The cache of a whole generation, and one forward pass that fills half of it."""
        prompts = min(rows, args.per_device_prompt_batch_size)
        drawn = prompts * args.group if args.algorithm == "ppo" else rows
        merges = not args.bf16 and args.zero_stage < 3  # as trainers do, at one λ
        with adapter.merged(state.value) if merges else nullcontext():
            cache = preallocated_cache(policy.config, args.max_length)
            half, seen, _ = padded([max(1, args.max_length // 2)] * drawn, policy.device)
            options = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            logits = policy(input_ids=half, attention_mask=seen.long(), **options).logits[:, -1]
            uniform = torch.rand(drawn, dtype=torch.float64).to(logits.device)
            invert(logits.float().softmax(dim=-1), uniform)

    @torch.no_grad()
    def reference() -> None:
        with adapter.disabled():
            log_probs(policy, ids, mask, counted)

    @torch.no_grad()
    def scoring() -> None:
        reference()
        for reward in models.rewards:
            if reward is models.rewards[0] and critic is not None:
                critic(ids, attention_mask=mask, role="reward")
            else:
                reward(ids, attention_mask=mask)

    def ptx() -> None:
        log_probs(policy, ids, mask, counted).sum().backward()

    def update() -> None:
        ptx()
        if critic is not None:
            critic(ids, attention_mask=mask).scores.float().sum().backward()

    if args.algorithm == "sft":
        return {"update": update}
    if args.algorithm == "dpo":
        return {"reference": reference, "update": update}
    found = {"generation": generation, "scoring": scoring, "update": update}
    return {**found, "ptx": ptx} if args.ptx else found


def held(
    args: MemoryOptions,
    policy: Any,
    rewards: Sequence[Any],
    *,
    meter: Any = None,
    device: str | None = None,
) -> Held:
    """Run every part of the step of a planned training, with recomputation and without.

    ``policy`` and ``rewards`` are transformers' configurations, with none for a function.
    ``meter`` counts in the place of ``LiveBytes``. On a ``device`` models have real, random
    weights; without one they take no memory.
    """
    state = PreferenceState(args.objectives)  # is not counted
    live = meter or LiveBytes(policy.get_text_config().vocab_size)

    def peak(run: Callable[[], None]) -> tuple[int, int]:
        """Bytes above what was there before, and those of logits."""
        gc.collect()  # an earlier graph that a cycle holds would be counted, and freed meanwhile
        live.restart()
        before, wide = live.now, live.wide
        run()
        return live.peak - before, live.widest - wide

    onednn_is_faster()  # now: what it measures with belongs to no part of a step
    gc.collect()
    gc.freeze()  # collections look at nothing that was there before, and are quick
    with ExitStack() as stack:
        stack.callback(gc.unfreeze)
        stack.enter_context(live)
        models = Models(args, state, policy, rewards, device)
        gc.collect()
        element, trained = models.policy.dtype.itemsize, sum(p.numel() for p in models.trained)
        weights = live.now - 2 * trained * element  # the gradients are there, too
        engines = [m for m in (models.policy, models.critic) if m is not None]
        runs, parts = _parts(models, state, args), {}
        nn.ModuleList(engines).train()
        kept = {name: peak(run) for name, run in runs.items()}
        for engine in engines:
            set_gradient_checkpointing(engine, True)
        for name, run in runs.items():
            again = peak(run) if name in ("update", "ptx") else kept[name]
            parts[name] = Part(kept[name][0], again[0], max(kept[name][1], again[1]))
    largest = max(sum(p.nbytes for p in module.parameters()) for module in models.all)
    return Held(1 + len(rewards), len(engines), weights, trained, element, largest, parts)
