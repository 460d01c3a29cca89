"""Injecting the adapter into a model, the handle by which it is used, and how far it reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from safe_rlhf_panacea.adapter.config import AdapterConfig, AdapterError
from safe_rlhf_panacea.adapter.fingerprint import fingerprint
from safe_rlhf_panacea.adapter.layer import SvdLoraLinear, factor_shapes, linear_shape
from safe_rlhf_panacea.adapter.state import PreferenceState, follow_rows
from safe_rlhf_panacea.preference import Preference, parse_preference


class PanaceaAdapter:
    """The handle of an injected adapter: λ, on and off, merge, save."""

    def __init__(
        self,
        model: nn.Module,
        config: AdapterConfig,
        state: PreferenceState,  # λ, shared by all layers
        layers: dict[str, SvdLoraLinear],  # by qualified name
    ) -> None:
        """Hold on to the layers of an adapted model."""
        self.model, self.config, self.state, self.layers = model, config, state, layers
        self.objectives = config.objectives  # names, in the order of λ

    @property
    def pref_dim(self) -> int:
        """m, or 0 for an adapter that does not depend on λ."""
        return self.state.pref_dim

    @property
    def preference(self) -> torch.Tensor:
        """The current λ, size = (m,) or (B, m)."""
        return self.state.value

    def set_preference(self, preference: Preference) -> None:
        """Set λ, size = (m,) for a whole batch or (B, m) for one vector per sample.

        Anything but a tensor is read by ``parse_preference``. An ``AdapterError`` where the shape
        is another one, or the adapter is merged.
        """
        if self.is_merged:
            raise AdapterError("the adapter is merged at one λ: unmerge it before setting another")
        if not isinstance(preference, torch.Tensor):
            preference = parse_preference(preference, self.objectives)
        # Moved once here, and not by every layer at every step.
        self.state.set(preference, next(iter(self.layers.values())).lora_sigma.device)

    @contextmanager
    def at(self, preference: Preference) -> Iterator[None]:
        """``set_preference`` for a while; the λ that was set before holds again afterwards.

        Does nothing to an adapter that does not depend on λ.
        """
        if self.pref_dim == 0:
            yield
            return
        with self.state.kept():
            self.set_preference(preference)
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model, bit for bit; an ``AdapterError`` where the adapter is merged."""
        if self.is_merged:
            raise AdapterError("the adapter is merged: unmerge it to get the base model")
        with self.state.during(enabled=False):
            yield

    @property
    def is_merged(self) -> bool:
        """Whether the weights are W(λ) at the moment."""
        return any(layer._base_weight is not None for layer in self.layers.values())

    def merge(self, preference: Preference) -> None:
        """Write W(λ) into the weights, for λ of size (m,).

        Computed in float32 and rounded once: logits agree with the adapted model's to 1e-4 relative
        in float32. W0 is kept aside: the adapted weights take twice the memory until ``unmerge``.
        λ per sample, another shape, or an adapter that is merged raise an ``AdapterError``.
        """
        if not isinstance(preference, torch.Tensor):
            preference = parse_preference(preference, self.objectives)
        if preference.dim() != 1:
            raise AdapterError("only one λ can be merged: its shape must be (m,)")
        self.set_preference(preference)
        for layer in self.layers.values():
            layer.merge(preference)

    def unmerge(self) -> None:
        """Give the base weights back, bit for bit."""
        for layer in self.layers.values():
            layer.unmerge()

    @contextmanager
    def merged(self, preference: Preference) -> Iterator[None]:
        """Merged at λ inside the context; the λ that was set before holds again after it."""
        with self.at(preference):
            self.merge(preference)
            try:
                yield
            finally:
                self.unmerge()

    def delta_weight(self, name: str, preference: torch.Tensor) -> torch.Tensor:
        """W(λ) - W0 of one layer in float32, size = (out_features, in_features)."""
        return self.layers[name].get_delta_weight(preference)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """U, V, σ and s of every layer by qualified name."""
        found = {}
        for name, layer in self.layers.items():
            for key in ("lora_U", "lora_V", "lora_sigma", "lora_s"):
                if getattr(layer, key) is not None:
                    found[f"{name}.{key}"] = getattr(layer, key)
        return found

    def parameters(self) -> list[nn.Parameter]:
        """U, V, σ and s of every layer."""
        return list(self.named_parameters().values())

    def orthogonality(self) -> torch.Tensor:
        """AdaLoRA's penalty: mean over layers of ‖UᵀU - I‖² + ‖VᵀV - I‖², size = ()."""
        total = torch.zeros((), device=next(iter(self.layers.values())).lora_U.device)
        for layer in self.layers.values():
            for factor in (layer.lora_U.float(), layer.lora_V.float()):
                gram = factor.t() @ factor
                identity = torch.eye(gram.size(0), device=gram.device)
                total = total + (gram - identity).square().sum()
        return total / len(self.layers)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors, contiguous, on the CPU."""
        return {k: p.detach().cpu().contiguous() for k, p in self.named_parameters().items()}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], source: str = "") -> None:
        """Take over tensors; an ``AdapterError`` unless all of them are there and fit."""
        own = self.named_parameters()
        _check_tensors(tensors, {name: tuple(p.shape) for name, p in own.items()}, source)
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self.state.version += 1  # nothing that layers remember holds any more

    def save(self, folder: str | Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        from safe_rlhf_panacea.adapter.io import save_adapter

        save_adapter(self, folder)


def is_linear(module: nn.Module) -> bool:
    """Whether a module can be adapted: ``nn.Linear``, or a linear layer of transformers' own.

    A subclass with a forward pass of its own, such as some routers, computes something else.
    """
    kind = type(module)
    # by name, so that plain torch is enough for models that have none
    if kind.__name__ in ("Conv1D", "FalconLinear") and kind.__module__.startswith("transformers."):
        return True
    return isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward


def _matching(model: nn.Module, pattern: str) -> list[str]:
    """Names of the linear layers that a pattern adapts; refuses a second adapter on them."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, SvdLoraLinear) and pattern in name:
            raise AdapterError(f"layer {name} carries an adapter already")
    linear = [name for name, module in modules.items() if is_linear(module)]
    found = [name for name in linear if pattern in name]
    if not found:
        some = ", ".join(linear[:4]) or "none"
        raise AdapterError(
            f"lora_module_name {pattern!r} matches no linear layer; the model has {some}"
        )
    return found


def _check_tensors(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Refuse tensors, read from ``source``, of other names or shapes than those of a model."""
    where = f"{source}: " if source else ""
    for name in shapes:
        if name not in tensors:
            raise AdapterError(f"{where}tensor {name} is missing: not an adapter of this model")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise AdapterError(f"{where}tensor {name} has no place in this model")
        if tensor.shape != shapes[name]:
            raise AdapterError(
                f"{where}tensor {name} has shape {tuple(tensor.shape)}, "
                f"this model needs {shapes[name]}"
            )


def check_fit(
    model: nn.Module, config: AdapterConfig, tensors: Mapping[str, torch.Tensor], source: str = ""
) -> None:
    """Refuse saved tensors that do not fit a model without an adapter, and leave it as it is."""
    shapes = {}
    for name in _matching(model, config.lora_module_name):
        size = linear_shape(model.get_submodule(name))
        for key, shape in factor_shapes(*size, config).items():
            shapes[f"{name}.{key}"] = shape
    _check_tensors(tensors, shapes, source)


def inject_adapter(
    model: nn.Module,
    config: AdapterConfig,
    state: PreferenceState | None = None,
    layer_type: type[SvdLoraLinear] = SvdLoraLinear,
) -> PanaceaAdapter:
    """Put an SVD-LoRA into every matching linear layer of a torch model, in place.

    Also leaves the handle at ``model.panacea_adapter``. ``state`` is λ shared with another model.
    An ``AdapterError`` where nothing matches, or a matching layer carries an adapter already.
    """
    state = state or PreferenceState(config.pref_dim)
    names = _matching(model, config.lora_module_name)
    if config.only_optimize_lora:  # else the base changes, and is not to be known again
        model.requires_grad_(False)
        config = replace(config, base_fingerprint=fingerprint(model, names))
    layers = {}
    for name in names:
        layers[name] = layer_type(model.get_submodule(name), config, state)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[name])
    adapter = PanaceaAdapter(model, config, state, layers)
    object.__setattr__(model, "panacea_adapter", adapter)
    follow_rows(model, state)
    return adapter


@dataclass(frozen=True)
class Coverage:
    """How much of a model's weights is adapted; embeddings and output head do not count."""

    share: float  # of the numbers in them, from 0 to 1
    note: str  # what there is to say of it; empty where all weights are adapted


def coverage(adapter: PanaceaAdapter) -> Coverage:
    """How much of its model an adapter reaches; the weights must not be sharded yet."""

    def order(parameter: nn.Parameter) -> int:
        """How many dimensions are larger than 1: three where there is a matrix for each expert."""
        return sum(size > 1 for size in parameter.shape)

    model = adapter.model
    adapted = {id(layer.weight) for layer in adapter.layers.values()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    others = [m for m in model.modules() if isinstance(m, nn.Embedding | _ConvNd)]
    left_out = {id(p) for m in (*others, head) if m is not None for p in m.parameters()} - adapted
    left_out |= {id(p) for p in adapter.parameters()}
    weights = {n: p for n, p in model.named_parameters() if order(p) > 1 and id(p) not in left_out}
    reached = sum(p.numel() for p in weights.values() if id(p) in adapted)
    share = reached / sum(p.numel() for p in weights.values())
    if share >= 0.995:  # what a rounded percentage calls all of it
        return Coverage(share, "")
    note = f"The adapter reaches {100 * share:.0f} % of the weights of the model's layers"
    experts = [n for n, p in weights.items() if order(p) > 2 and id(p) not in adapted]
    if experts:
        more = f" and {len(experts) - 1} more" if len(experts) > 1 else ""
        note += f": experts are no linear layers and stay as they are ({experts[0]}{more})"
    return Coverage(share, f"{note}.")
