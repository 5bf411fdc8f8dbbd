"""Dead weights stay zero: while the module trains, when it is copied or pickled, and whatever its optimizer does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from graphprune.errors import OptionError
from graphprune.program.tensors import Masks


@dataclass(eq=False)
class HeldMasks:
    """A forward hook of a module that keeps its dead weights at zero.

    Gradients of dead weights become zero as they arise, before anything clips or adds them up. What an optimizer
    changes all the same (by momentum from before, or because it does not follow gradients) is undone at the end of its
    step; what anything else does, before the next forward pass that is not compiled; values written by way of
    ``.data``, which torch does not count, after the next backward pass at the latest. Copies of the module and what is
    pickled bring the hook along; those of a module that is no graph module are held from their first forward pass on. A
    layer that was taken out or replaced, and values that take a parameter's place for
    one call (`torch.func.functional_call`), are left alone.

    Attributes:
        masks: Live weights by parameter.
    """

    masks: Masks
    _hooked: dict[str, RemovableHandle] = field(default_factory=dict, init=False, repr=False)
    _seen: dict[str, _Seen] = field(default_factory=dict, init=False, repr=False)
    _trained: set[str] = field(default_factory=set, init=False, repr=False)

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Called before each forward pass."""
        if not torch.compiler.is_compiling():
            self.apply(module)

    @torch.no_grad()
    def apply(self, module: nn.Module) -> None:
        """Zeroes dead weights that are not zero any more; hooks parameters that are new."""
        changed: dict[str, nn.Parameter] = {}
        for name, mask in self.masks.items():
            parameter = _parameter_of(module, name)
            if parameter is None or parameter.shape != mask.shape:
                continue
            if parameter.requires_grad and not self._is_hooked(name, parameter):
                self._hooked[name] = parameter.register_hook(_Masked(self, name))
                self._seen.pop(name, None)
            # what was looked at once is not looked at again: autograd would refuse a change between two forward passes
            seen = self._seen.get(name)
            if name in self._trained or seen is None or not seen.is_still(parameter):
                changed[name] = parameter
        dead = {name: ~_on(self.masks, name, parameter) for name, parameter in changed.items()}
        # autograd refuses a change of values that a graph still needs, so those that are zero are not written again
        for name in _alive(changed, dead):
            changed[name].masked_fill_(dead[name], 0)
        for name, parameter in changed.items():
            self._seen[name] = _Seen.of(parameter)
            self._trained.discard(name)

    def _is_hooked(self, name: str, parameter: nn.Parameter) -> bool:
        return any(masked.held is self and masked.name == name for masked in _hooks_of(parameter))

    @torch.no_grad()
    def undo(self, name: str, parameter: nn.Parameter) -> None:
        """Zeroes dead weights of a parameter that a step has changed; it is looked at again before the next pass.

        What comes between the two (averages that are written by way of ``.data``) may not be seen otherwise.
        """
        parameter.masked_fill_(~_on(self.masks, name, parameter), 0)

    def trained(self, name: str) -> None:
        """Notes a parameter that has got a gradient: a step comes next, which may not count up the version."""
        self._trained.add(name)

    def release(self) -> None:
        """Lets gradients through again; values stay as they are."""
        for handle in self._hooked.values():
            handle.remove()
        self._hooked.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and files hold the masks alone: hooks on parameters do not come along either."""
        return HeldMasks, (self.masks,)


def _alive(parameters: Mapping[str, Tensor], dead: Masks) -> list[str]:
    """Parameters of which a dead weight is not zero; a device is waited for once, not for each of them."""
    if not parameters:
        return []
    place = next(iter(parameters.values())).device
    captured = place.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if captured or place.type == "meta":  # no values to look at: all may be alive
        return list(parameters)
    found = [((values != 0) & dead[name]).any().to(place) for name, values in parameters.items()]
    return [name for name, alive in zip(parameters, torch.stack(found).tolist(), strict=True) if alive]


def _on(masks: Masks, name: str, like: Tensor) -> Tensor:
    """A mask where a tensor is; kept there, so that it moves once only, but for where it would have no values."""
    mask = masks[name]
    if mask.device != like.device:
        mask = mask.to(like.device)
        if not like.is_meta:
            masks[name] = mask
    return mask


@dataclass(frozen=True, eq=False)
class _Seen:
    """A parameter whose dead weights are zero, as long as it is the same, at the same place, in the same version.

    Changes in place count up the version, but for those by way of ``.data`` and those of fused optimizers.
    """

    identity: int
    place: int
    version: int

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Seen:
        return cls(id(parameter), parameter.data_ptr(), _version(parameter))

    def is_still(self, parameter: nn.Parameter) -> bool:
        """Whether nothing seems to have changed it."""
        same = id(parameter) == self.identity and parameter.data_ptr() == self.place
        return same and _version(parameter) == self.version


def _version(parameter: nn.Parameter) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """A parameter by its full name; None where something else is in its place."""
    *path, last = name.split(".")
    for part in path:
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    found = module._parameters.get(last)
    return found if isinstance(found, nn.Parameter) else None


@dataclass(eq=False)
class _Masked:
    """A gradient hook; nothing leads from it back to its parameter, which would wait for the garbage collector then.

    Attributes:
        held: The masks of the module.
        name: Name of the parameter.
    """

    held: HeldMasks
    name: str

    def __call__(self, gradient: Tensor) -> Tensor:
        self.held.trained(self.name)
        mask = _on(self.held.masks, self.name, gradient)
        if gradient.layout != torch.strided:
            return gradient * mask
        return torch.where(mask, gradient, 0)  # not a product: what overflowed in a dead weight is 0 too, and no NaN


def _hooks_of(parameter: Tensor) -> list[_Masked]:
    """Found on the parameter: a list of parameters would keep them alive, and weak references forbid to swap them."""
    return [hook for hook in (parameter._backward_hooks or {}).values() if isinstance(hook, _Masked)]


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Called after every step of every optimizer: one that was not told of masks changes dead weights too."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # what has no gradient is left alone by the step too, and a graph may still need it as it is
            for masked in _hooks_of(parameter) if parameter.grad is not None else ():
                if parameter.shape == masked.held.masks[masked.name].shape:
                    masked.held.undo(masked.name, parameter)


@cache
def _follow_optimizers() -> RemovableHandle:
    """From the first held module on; a compiled step is left for the hook, which would else run once, while traced."""
    return register_optimizer_step_post_hook(torch.compiler.disable(_after_step))


@dataclass(eq=False)
class _HoldAgain:
    """Called with each deep copy of a graph module, which does not bring forward hooks along by itself."""

    masks: Masks

    def __call__(self, copied: fx.GraphModule) -> None:
        _attach(copied, self.masks)  # unchecked: layers may have been replaced since


def _reduced(module: fx.GraphModule) -> tuple[Any, ...]:
    """How a held graph module is pickled; its own way leaves out forward hooks."""
    masks = [hook.masks for hook in module._forward_pre_hooks.values() if isinstance(hook, HeldMasks)]
    return _restored, (*fx.GraphModule.__reduce__(module), *masks)


def _restored(make: Callable[..., fx.GraphModule], arguments: tuple[Any, ...], *masks: Masks) -> fx.GraphModule:
    module = make(*arguments)
    for each in masks:
        _attach(module, each)
    return module


def hold(module: nn.Module, masks: Masks) -> None:
    """Keeps the dead weights of a module and of its deep copies at zero from now on, instead of those held before.

    What an optimizer remembers of them is its owner's affair, see `graphprune.training.optimizer.clear_dead`.

    Raises:
        OptionError: a mask is of no parameter, or of another shape.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    wrong = [name for name in masks if name not in parameters or masks[name].shape != parameters[name].shape]
    if wrong:
        raise OptionError(f"masks: no parameters of that shape in {type(module).__name__}: {', '.join(wrong)}")
    _attach(module, masks)


def _attach(module: nn.Module, masks: Masks) -> None:
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, HeldMasks):
            hook.release()
            del module._forward_pre_hooks[key]
    if isinstance(module, fx.GraphModule):
        module._deepcopy_hooks = [hook for hook in module._deepcopy_hooks if not isinstance(hook, _HoldAgain)]
    if masks:
        _follow_optimizers()
        held = HeldMasks(dict(masks))
        held.apply(module)
        module.register_forward_pre_hook(held)
        if isinstance(module, fx.GraphModule):
            module._register_deepcopy_hook(_HoldAgain(held.masks))
            type(module).__reduce__ = _reduced  # type: ignore[method-assign, assignment]  # a graph module's class is its own


def settle(module: nn.Module) -> None:
    """Zeroes dead weights now, before somebody reads them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, HeldMasks):
            hook.apply(module)
