"""Models of a training without their weights, and a count of the bytes that tensors hold."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.adapter.state import PreferenceState
from safe_rlhf_panacea.forward import PassOptions, set_pass_options
from safe_rlhf_panacea.models import AutoModelForScore

if TYPE_CHECKING:
    from safe_rlhf_panacea.memory.__main__ import MemoryOptions

aten = torch.ops.aten


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end.

    With fake tensors (torch's own, of the sizes and types of real ones but without memory) an
    ordinary training step says what it would hold, however large the model is. Masks and token
    ids stay real, so that whatever depends on lengths runs as it is. ``now`` bytes are alive,
    ``peak`` at most since ``restart``; ``wide`` and ``widest`` are those in tensors whose last
    dimension is ``width`` or more, such as logits.
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
        """Run an operation and follow what it makes."""
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
    """What a training holds: policy, score models, the critic, where Panacea-PPO puts it, adapters.

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
        with nullcontext() if device else FakeTensorMode(allow_non_fake_inputs=True):
            self._fill(device or "cpu")
            for parameter in self.trained():
                parameter.grad = torch.zeros_like(parameter)
        # Passes as they would be cut, and attend, on the device that is planned for.
        planned = torch.device(args.device)
        most = PassOptions(args.max_tokens_per_pass).most_tokens(planned)
        for model in self.modules():
            options = PassOptions(most, write_out_attention=planned.type == "cpu")
            set_pass_options(model, options)

    def _fill(self, device: str) -> None:
        """Random tensors, or fake ones, for those on the meta device, which masks cannot join."""
        # First all are found: a tensor that is gone could leave its id to another.
        modules = {m for model in self.modules() for m in model.modules()}
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

    def modules(self) -> list[nn.Module]:
        """All of them; some share parameters."""
        critic = [] if self.critic is None else [self.critic]
        return [self.policy, *critic, *self.rewards]

    def trained(self) -> list[nn.Parameter]:
        """Adapters and value head, each parameter once."""
        found = {id(p): p for module in self.modules() for p in module.parameters()}
        return [p for p in found.values() if p.requires_grad]
