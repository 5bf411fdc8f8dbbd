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

    Gradients of dead weights become zero as they arise, before anything clips or adds them up. What an optimizer still
    changes (by earlier momentum, or because it does not follow gradients) is undone at the end of its step. What
    anything else changes is undone before the next forward pass that is not compiled; values written by way of
    ``.data``, which torch does not count, are undone after the next backward pass at the latest. Copies and pickles of
    the module bring the hook along; those of a module that is not a graph module are held from their first forward pass
    on. A layer that was taken out or replaced, and values that take a parameter's place for one call
    (`torch.func.functional_call`), are left alone.

    Attributes:
        masks: Live weights by parameter name, bool, of the parameters' shapes.
    """

    masks: Masks
    _hooked: dict[str, RemovableHandle] = field(default_factory=dict, init=False, repr=False)
    _seen: dict[str, _Seen] = field(default_factory=dict, init=False, repr=False)
    _trained: set[str] = field(default_factory=set, init=False, repr=False)

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Applies the masks before each forward pass that is not compiled."""
        if not torch.compiler.is_compiling():
            self.apply(module)

    @torch.no_grad()
    def apply(self, module: nn.Module) -> None:
        """Zeroes dead weights that are not zero any more, and hooks new parameters."""
        changed: dict[str, nn.Parameter] = {}
        for name, mask in self.masks.items():
            parameter = _parameter_of(module, name)
            if parameter is None or parameter.shape != mask.shape:
                continue
            if parameter.requires_grad and not self._is_hooked(name, parameter):
                self._hooked[name] = parameter.register_hook(_Masked(self, name))
                self._seen.pop(name, None)
            # a parameter that did not change is skipped: autograd would refuse a write between two forward passes
            seen = self._seen.get(name)
            if name in self._trained or seen is None or not seen.is_still(parameter):
                changed[name] = parameter
        dead = {name: ~_on(self.masks, name, parameter) for name, parameter in changed.items()}
        # autograd refuses a write to values that a graph still needs, so zeros are not written again
        for name in _alive(changed, dead):
            changed[name].masked_fill_(dead[name], 0)
        for name, parameter in changed.items():
            self._seen[name] = _Seen.of(parameter)
            self._trained.discard(name)

    def _is_hooked(self, name: str, parameter: nn.Parameter) -> bool:
        return any(masked.held is self and masked.name == name for masked in _hooks_of(parameter))

    @torch.no_grad()
    def undo(self, name: str, parameter: nn.Parameter) -> None:
        """Zeroes dead weights of a parameter that a step has changed; `apply` checks the parameter again.

        Changes between the two (averages that are written by way of ``.data``) might go unnoticed otherwise.
        """
        parameter.masked_fill_(~_on(self.masks, name, parameter), 0)

    def trained(self, name: str) -> None:
        """Notes that a parameter has a gradient: the step that follows possibly does not count up its version."""
        self._trained.add(name)

    def release(self) -> None:
        """Removes the gradient hooks; values stay as they are."""
        for handle in self._hooked.values():
            handle.remove()
        self._hooked.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and files hold the masks alone, because hooks on parameters are not copied either."""
        return HeldMasks, (self.masks,)


def _alive(parameters: Mapping[str, Tensor], dead: Masks) -> list[str]:
    """Names of parameters with a dead weight that is not zero; waits for the device once, not for each parameter."""
    if not parameters:
        return []
    place = next(iter(parameters.values())).device
    captured = place.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if captured or place.type == "meta":  # there are no values to look at: any dead weight may be nonzero
        return list(parameters)
    found = [((values != 0) & dead[name]).any().to(place) for name, values in parameters.items()]
    return [name for name, alive in zip(parameters, torch.stack(found).tolist(), strict=True) if alive]


def _on(masks: Masks, name: str, like: Tensor) -> Tensor:
    """Returns a mask on a tensor's device; keeps the moved mask, so that it moves once, except on the meta device."""
    mask = masks[name]
    if mask.device != like.device:
        mask = mask.to(like.device)
        if not like.is_meta:
            masks[name] = mask
    return mask


@dataclass(frozen=True, eq=False)
class _Seen:
    """A parameter whose dead weights are zero, as long as its identity, its memory and its version stay the same.

    Changes in place count up the version, except those by way of ``.data`` and those of fused optimizers.
    """

    identity: int
    place: int
    version: int

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Seen:
        return cls(id(parameter), parameter.data_ptr(), _version(parameter))

    def is_still(self, parameter: nn.Parameter) -> bool:
        """Whether nothing seems to have changed the parameter."""
        same = id(parameter) == self.identity and parameter.data_ptr() == self.place
        return same and _version(parameter) == self.version


def _version(parameter: nn.Parameter) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """Finds a parameter by its full name; None where something else is in its place."""
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
    """A gradient hook; it holds no reference to its parameter, which would then wait for the garbage collector.

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
        return torch.where(mask, gradient, 0)  # not a product: 0 times an overflowed gradient is NaN


def _hooks_of(parameter: Tensor) -> list[_Masked]:
    """The mask hooks of a parameter, found on the parameter itself.

    A list of hooked parameters would keep them alive, and weak references would prevent swapping them.
    """
    return [hook for hook in (parameter._backward_hooks or {}).values() if isinstance(hook, _Masked)]


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Called after every step of every optimizer, because any of them may change dead weights."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # the step leaves a parameter without a gradient alone, and a graph may still need its values
            for masked in _hooks_of(parameter) if parameter.grad is not None else ():
                if parameter.shape == masked.held.masks[masked.name].shape:
                    masked.held.undo(masked.name, parameter)


@cache
def _follow_optimizers() -> RemovableHandle:
    """Registers the step hook, once; a compiled step calls it uncompiled, because a traced hook would run only once."""
    return register_optimizer_step_post_hook(torch.compiler.disable(_after_step))


@dataclass(eq=False)
class _HoldAgain:
    """Holds the masks on each deep copy of a graph module, which does not copy forward hooks by itself."""

    masks: Masks

    def __call__(self, copied: fx.GraphModule) -> None:
        _attach(copied, self.masks)  # unchecked: layers may have been replaced since


def _reduced(module: fx.GraphModule) -> tuple[Any, ...]:
    """Pickles a held graph module with its masks; its own `__reduce__` leaves out forward hooks."""
    masks = [hook.masks for hook in module._forward_pre_hooks.values() if isinstance(hook, HeldMasks)]
    return _restored, (*fx.GraphModule.__reduce__(module), *masks)


def _restored(make: Callable[..., fx.GraphModule], arguments: tuple[Any, ...], *masks: Masks) -> fx.GraphModule:
    module = make(*arguments)
    for each in masks:
        _attach(module, each)
    return module


def hold(module: nn.Module, masks: Masks) -> None:
    """Keeps the dead weights of a module and of its deep copies at zero from now on, instead of those held before.

    The state that an optimizer has of them stays; see `graphprune.training.optimizer.clear_dead`.

    Raises:
        OptionError: a mask belongs to no parameter, or has another shape.
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
    """Zeroes dead weights now, before anything reads them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, HeldMasks):
            hook.apply(module)
