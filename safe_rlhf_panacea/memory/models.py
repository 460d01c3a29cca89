"""Models of a training without their weights, and a count of the bytes that tensors hold."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safe_rlhf_panacea.adapter import AdapterConfig, PanaceaAdapter, inject_adapter
from safe_rlhf_panacea.adapter.state import PreferenceState
from safe_rlhf_panacea.models import AutoModelForScore
from safe_rlhf_panacea.models.loading import loading_errors

aten = torch.ops.aten


def _positions(index: Any) -> Any:
    """A mask as positions: how many a fake tensor would find in it is not known to it."""
    if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
        return index.nonzero(as_tuple=True)
    return (index,)


class Meter(Protocol):
    """What counts bytes inside its ``with`` block: those alive, and the most since ``restart``."""

    now: int
    peak: int
    wide: int
    widest: int

    def __enter__(self) -> Any: ...

    def __exit__(self, *args: Any) -> Any: ...

    def restart(self) -> None: ...


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end.

    With fake tensors (torch's own, of the sizes and types of real ones but without memory) an
    ordinary training step says what it would hold, however large the model is. Masks and token
    ids stay real, so that whatever depends on lengths runs as it is.

    Attributes:
        now: bytes alive.
        peak: the most that were alive since ``restart``.
        widest: the most in tensors whose last dimension is ``width`` or more, such as logits.
    """

    def __init__(self, width: int = 0) -> None:
        """Watch nothing yet."""
        super().__init__()
        self.width = width
        self.now = self.peak = self.wide = self.widest = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Begin to look for a peak anew."""
        self.peak, self.widest = self.now, self.wide

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        wide = size if tensor.dim() > 1 and tensor.size(-1) >= self.width > 0 else 0
        self._count(size, wide)
        self.peak, self.widest = max(self.peak, self.now), max(self.widest, self.wide)
        weakref.finalize(storage, self._forget, key, size, wide)

    def _count(self, size: int, wide: int) -> None:
        self.now += size
        self.wide += wide

    def _forget(self, key: int, size: int, wide: int) -> None:
        self._known.discard(key)
        self._count(-size, -wide)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and follow what it makes."""
        if func is aten.equal.default:
            return True  # of values that are not there; the step asks it of one and the same head
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            found = [part for index in args[1] for part in _positions(index)]
            args = (args[0], found, *args[2:])
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf)
        return result


def read_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """A model's configuration; of a model on the hub nothing else is downloaded.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoConfig

    with loading_errors(name, "configuration"):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


class Models:
    """What a training holds: the policy, the score models and, with PPO, the critic.

    Attributes:
        adapters: the policy's, and the critic's if there is one.
    """

    def __init__(self, config: AdapterConfig, dtype: torch.dtype) -> None:
        """Models of one type, and adapters of one kind, none of them made yet."""
        self.config, self.dtype = config, dtype
        self.state = PreferenceState(config.pref_dim)  # real: layers look at its values
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.policy: Any = None
        self.critic: Any = None
        self.rewards: list[Any] = []
        self.adapters: list[PanaceaAdapter] = []

    def make(
        self, policy: Any, rewards: Iterable[Any], *, critic: bool, device: str | None = None
    ) -> None:
        """From configurations; the critic is where Panacea-PPO puts it.

        Args:
            policy: configuration of the policy.
            rewards: configurations of the reward models.
            critic: whether there is one.
            device: where real, random weights are to be; None: none are.
        """
        from transformers import AutoModelForCausalLM

        from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic, shared_copy, value_model

        with torch.device("meta"):
            self.policy = AutoModelForCausalLM.from_config(policy, dtype=self.dtype)
            self.rewards = [
                AutoModelForScore.from_config(config, dtype=self.dtype).eval() for config in rewards
            ]
            for reward in self.rewards:
                reward.requires_grad_(False)
            if critic and not self.rewards:  # before the policy's adapter is in its layers
                self.critic = value_model(shared_copy(self.policy.base_model))
            self._adapt(self.policy)
            if critic and self.rewards:
                self.critic = RewardCritic(self.rewards[0], self._adapt(self.rewards[0]))
            elif critic:
                self._adapt(self.critic)
                self.critic.score_head.requires_grad_(True)
        with self.fake if device is None else nullcontext():
            self._fill(device or "cpu")
            for parameter in self.trained():
                parameter.grad = torch.zeros_like(parameter)

    def _fill(self, device: str) -> None:
        """Random tensors, or fake ones, for those on the meta device, which masks cannot join."""
        made: dict[int, torch.Tensor] = {}

        def filled(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                new = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                made[id(tensor)] = new.normal_(std=0.02) if new.is_floating_point() else new.zero_()
                if isinstance(tensor, nn.Parameter):
                    made[id(tensor)] = nn.Parameter(made[id(tensor)], tensor.requires_grad)
            return made[id(tensor)]

        # First all are found: a tensor that is gone could leave its id to another.
        modules = {m for model in self.modules() for m in model.modules()}
        tables: list[dict[str, Any]] = [t for m in modules for t in (m._parameters, m._buffers)]
        places = [(t, n, v) for t in tables for n, v in t.items() if v is not None]
        for table, name, tensor in places:
            table[name] = filled(tensor)

    def _adapt(self, model: nn.Module) -> PanaceaAdapter:
        self.adapters.append(inject_adapter(model, self.config, self.state))
        return self.adapters[-1]

    def modules(self) -> list[nn.Module]:
        """All of them; some share parameters."""
        critic = [] if self.critic is None else [self.critic]
        return [self.policy, *critic, *self.rewards]

    def parameters(self) -> list[nn.Parameter]:
        """Each once."""
        found = {id(p): p for module in self.modules() for p in module.parameters()}
        return list(found.values())

    def trained(self) -> list[nn.Parameter]:
        """Adapters and value head."""
        return [p for p in self.parameters() if p.requires_grad]
