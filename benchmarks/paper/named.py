"""Methods by name, including controls and variants, with intervals that fit the epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphprune.errors import OptionError
from graphprune.research.methods import METHODS, ImpGlobal, Iterated, Method, Reinitialised, ShuffledMasks


def _on_paths(method: Method) -> Method:
    if not isinstance(method, Iterated) or method.granularity == "channel":
        raise OptionError(f"{method.name}: dead paths are of methods that remove weights in events")
    return replace(method, name=f"{method.name}, on paths", dead_paths="remove")


def _absolute(method: Method) -> Method:
    return replace(_elasticity(method), name=f"{method.name}, absolute", accumulate="absolute")


def _published_loss(method: Method) -> Method:
    return replace(_elasticity(method), name=f"{method.name}, published loss", published_loss=True)


def _elasticity(method: Method) -> Iterated:
    if not isinstance(method, Iterated) or method.criterion != "elasticity":
        raise OptionError(f"{method.name}: how gradients are taken is a choice of methods that rank by elasticity")
    return method


VARIANTS: dict[str, Callable[[Method], Method]] = {
    ", shuffled": ShuffledMasks, ", re-initialised": Reinitialised, ", on paths": _on_paths,
    ", absolute": _absolute, ", published loss": _published_loss,
    ", as published": lambda method: _elasticity(method).as_published(),
}  # fmt: skip
"""Functions that make a control or a variant of a method, by the suffix of its name."""


def method_of(name: str, epochs: int) -> Method:
    """Returns a method, or a control or variant of it, by name.

    Controls are ``"snip, shuffled"`` and ``"snip, re-initialised"``. ``"snip, on paths"`` removes dead paths.
    ``"snap-it, absolute"`` adds gradients up as `graphprune.compile` does by default, ``"snap-it, published loss"``
    scores with the loss of the published code, and ``"snap-it, as published"`` has all differences of that code from
    the paper. For methods that prune during training, intervals are scaled from the paper's 80 epochs to `epochs`, and
    are at least one epoch.

    Raises:
        OptionError: there is no method of that name, or it cannot have the control or variant.
    """
    for end, variant in VARIANTS.items():
        if name.endswith(2 * end):
            raise OptionError(f"{name}: the same variant twice")
        if name.endswith(end):
            return variant(method_of(name.removesuffix(end), epochs))
    method = METHODS[name]
    if isinstance(method, (Iterated, ImpGlobal)):
        fitting: Method = method.within(epochs)
        return fitting
    return method
