"""Injecting the adapter into a model, and the handle through which it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterConfig
from safe_rlhf_panacea.adapter.errors import AdapterError
from safe_rlhf_panacea.adapter.fingerprint import fingerprint
from safe_rlhf_panacea.adapter.following import follow_generate, follow_tokens
from safe_rlhf_panacea.adapter.layer import SvdLoraLinear, factor_shapes, linear_shape
from safe_rlhf_panacea.adapter.state import PreferenceState
from safe_rlhf_panacea.preference import Preference, parse_preference


class PanaceaAdapter:
    """The handle of an injected adapter: λ, on and off, merge, save.

    Attributes:
        model: the adapted model.
        config: the adapter's configuration.
        state: λ, shared by all layers.
        layers: qualified name to layer.
        objectives: names, in the order of λ.
    """

    def __init__(
        self,
        model: nn.Module,
        config: AdapterConfig,
        state: PreferenceState,
        layers: dict[str, SvdLoraLinear],
    ) -> None:
        """Hold on to the layers."""
        self.model = model
        self.config = config
        self.state = state
        self.layers = layers
        self.objectives = config.objectives

    # -- λ ----------------------------------------------------------------------------

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

        Anything but a tensor is read by ``parse_preference``.

        Raises:
            AdapterError: another shape, or the adapter is merged.
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
        """The base model, bit for bit.

        Raises:
            AdapterError: the adapter is merged.
        """
        if self.is_merged:
            raise AdapterError("the adapter is merged: unmerge it to get the base model")
        before, self.state.enabled = self.state.enabled, False
        try:
            yield
        finally:
            self.state.enabled = before

    # -- merging ----------------------------------------------------------------------

    @property
    def is_merged(self) -> bool:
        """Whether the weights are W(λ) at the moment."""
        return any(layer._base_weight is not None for layer in self.layers.values())

    def merge(self, preference: Preference) -> None:
        """Write W(λ) into the weights, for λ of size (m,).

        Computed in float32 and rounded once: logits agree with the adapted model's to 1e-4 relative
        in float32. W0 is kept aside: the adapted weights take twice the memory until ``unmerge``.

        Raises:
            AdapterError: λ per sample, another shape, or already merged.
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

    # -- parameters -------------------------------------------------------------------

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
        """Take over tensors; all of them must be there and fit.

        Raises:
            AdapterError: a tensor is missing, unknown or of another shape.
        """
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
    linear = [name for name, module in model.named_modules() if is_linear(module)]
    adapted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, SvdLoraLinear) and pattern in name
    ]
    if adapted:
        raise AdapterError(f"layer {adapted[0]} carries an adapter already")
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
    """Check saved tensors against a model that has no adapter yet, and leave it as it is.

    Raises:
        AdapterError: a tensor is missing, unknown or of another shape, or nothing matches.
    """
    shapes = {}
    for name in _matching(model, config.lora_module_name):
        size = linear_shape(model.get_submodule(name))
        for key, shape in factor_shapes(*size, config).items():
            shapes[f"{name}.{key}"] = shape
    _check_tensors(tensors, shapes, source)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def inject_adapter(
    model: nn.Module,
    config: AdapterConfig,
    state: PreferenceState | None = None,
    layer_type: type[SvdLoraLinear] = SvdLoraLinear,
) -> PanaceaAdapter:
    """Put an SVD-LoRA into every matching linear layer of ``model``, in place.

    Also leaves the handle at ``model.panacea_adapter``.

    Args:
        model: any torch model.
        config: what to inject.
        state: λ shared with another model; a new one if None.
        layer_type: the layer's class.

    Raises:
        AdapterError: nothing matches, or a matching layer carries an adapter already.
    """
    state = state or PreferenceState(config.pref_dim)
    names = _matching(model, config.lora_module_name)
    if config.only_optimize_lora:  # else the base changes, and is not to be known again
        model.requires_grad_(False)
        config = replace(config, base_fingerprint=fingerprint(model, names))
    layers = {}
    for name in names:
        layers[name] = layer_type(model.get_submodule(name), config, state)
        _replace(model, name, layers[name])
    adapter = PanaceaAdapter(model, config, state, layers)
    object.__setattr__(model, "panacea_adapter", adapter)
    follow_generate(model, state)
    follow_tokens(model, state)
    return adapter
