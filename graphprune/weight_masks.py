"""Dead weights stay zero: while the module trains, when it is copied, and whatever its optimizer does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.weight_pool import Masks


@dataclass(eq=False)
class HeldMasks:
    """A forward hook of a module that keeps its dead weights at zero.

    Gradients of dead weights become zero as they arise, before anything clips or adds them up. What changes dead
    weights all the same (the momentum of an optimizer that was not given to `Pruner.step`, say) is undone before the
    next forward pass. Copies of the module bring the hook along.

    Attributes:
        masks: Live weights by parameter.
    """

    masks: Masks

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Called before each forward pass."""
        if not torch.compiler.is_compiling():
            self.apply(module)

    @torch.no_grad()
    def apply(self, module: nn.Module) -> None:
        """Zeroes dead weights that are not zero any more; hooks parameters that are new."""
        for name in self.masks:
            parameter = module.get_parameter(name)
            if not isinstance(parameter, nn.Parameter):  # swapped for a call, as torch.func does
                continue
            if parameter.requires_grad and not hasattr(parameter, _HOOKED):
                parameter.register_hook(_Masked(self.masks[name]))
                setattr(parameter, _HOOKED, True)
            # every change in place counts up, so what was looked at once is not looked at again
            if getattr(parameter, _SEEN, None) != parameter._version:
                parameter.mul_(_on(self.masks[name], parameter))
                setattr(parameter, _SEEN, parameter._version)


@dataclass(eq=False)
class _Masked:
    """A gradient hook."""

    mask: Tensor

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * _on(self.mask, gradient)


_HOOKED, _SEEN = "_graphprune_hooked", "_graphprune_seen"
"""Attributes of a parameter: that its gradients are masked, and its version when its values were. No copy has them."""


def _on(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like.device)


@dataclass(eq=False)
class _HoldAgain:
    """Called with each deep copy of a graph module, which does not bring forward hooks along by itself."""

    masks: Masks

    def __call__(self, copied: fx.GraphModule) -> None:
        hold(copied, self.masks)


def hold(module: fx.GraphModule, masks: Masks) -> None:
    """Keeps the dead weights of a module and of its deep copies at zero from now on, instead of those held before."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, HeldMasks):
            del module._forward_pre_hooks[key]
    module._deepcopy_hooks = [hook for hook in module._deepcopy_hooks if not isinstance(hook, _HoldAgain)]
    if masks:
        held = HeldMasks(dict(masks))
        held.apply(module)
        module.register_forward_pre_hook(held)
        module._register_deepcopy_hook(_HoldAgain(held.masks))


def settle(module: nn.Module) -> None:
    """Zeroes dead weights now, before somebody reads them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, HeldMasks):
            hook.apply(module)
