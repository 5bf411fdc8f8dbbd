"""Dead weights stay zero: while the module trains, when it is copied, and whatever its optimizer does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from graphprune.errors import OptionError
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
        """Zeroes dead weights that are not zero any more; hooks parameters that are new, or were others' to hold."""
        for name in self.masks:
            parameter = module.get_parameter(name)
            if not isinstance(parameter, nn.Parameter):  # swapped for a call, as torch.func does
                continue
            held: _Held | None = getattr(parameter, _HELD, None)
            if held is None or held.by is not self:
                if held is not None and held.handle is not None:
                    held.handle.remove()
                held = _Held(self)
                setattr(parameter, _HELD, held)
            if parameter.requires_grad and held.handle is None:
                held.handle = parameter.register_hook(_Masked(self.masks[name]))
            # every change in place counts up, so what was looked at once is not looked at again
            if held.version != parameter._version:
                parameter.mul_(_on(self.masks[name], parameter))
                held.version = parameter._version

    def release(self, module: nn.Module) -> None:
        """Lets gradients through again; values stay as they are."""
        for _, parameter in module.named_parameters():
            held: _Held | None = getattr(parameter, _HELD, None)
            if held is not None and held.by is self:
                if held.handle is not None:
                    held.handle.remove()
                delattr(parameter, _HELD)


@dataclass(eq=False)
class _Held:
    """What a parameter knows of its masks; no copy of the parameter has it, and no file.

    Attributes:
        by: The masks.
        handle: Of the hook that masks its gradients.
        version: Of its values when they were masked.
    """

    by: HeldMasks
    handle: RemovableHandle | None = None
    version: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """None, for hooks on parameters are not stored either."""
        return type(None), ()


_HELD = "_graphprune_held"
"""Attribute of a parameter."""


@dataclass(eq=False)
class _Masked:
    """A gradient hook."""

    mask: Tensor

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * _on(self.mask, gradient)


def _on(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like.device)


@dataclass(eq=False)
class _HoldAgain:
    """Called with each deep copy of a graph module, which does not bring forward hooks along by itself."""

    masks: Masks

    def __call__(self, copied: fx.GraphModule) -> None:
        hold(copied, self.masks)


def hold(module: nn.Module, masks: Masks) -> None:
    """Keeps the dead weights of a module and of its deep copies at zero from now on, instead of those held before.

    What an optimizer remembers of them is its owner's affair, see `graphprune.optimizer.clear_dead`.

    Raises:
        OptionError: a mask is of no parameter, or of another shape.
    """
    parameters = dict(module.named_parameters())
    wrong = [name for name in masks if name not in parameters or masks[name].shape != parameters[name].shape]
    if wrong:
        raise OptionError(f"masks: no parameters of that shape in {type(module).__name__}: {', '.join(wrong)}")
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, HeldMasks):
            hook.release(module)
            del module._forward_pre_hooks[key]
    if isinstance(module, fx.GraphModule):
        module._deepcopy_hooks = [hook for hook in module._deepcopy_hooks if not isinstance(hook, _HoldAgain)]
    if masks:
        held = HeldMasks(dict(masks))
        held.apply(module)
        module.register_forward_pre_hook(held)
        if isinstance(module, fx.GraphModule):
            module._register_deepcopy_hook(_HoldAgain(held.masks))


def settle(module: nn.Module) -> None:
    """Zeroes dead weights now, before somebody reads them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, HeldMasks):
            hook.apply(module)
