"""Methods by name, controls among them, with intervals that fit the epochs."""

from __future__ import annotations

from collections.abc import Callable

from graphprune.research.methods import METHODS, ImpGlobal, Iterated, Method, Reinitialised, ShuffledMasks

CONTROLS: dict[str, Callable[[Method], Method]] = {", shuffled": ShuffledMasks, ", re-initialised": Reinitialised}
"""By the end of the name that they give."""


def method_of(name: str, epochs: int) -> Method:
    """The method, or a control of it (``"snip, shuffled"``).

    Methods that prune during training get the paper's proportions of its 80 epochs, for `epochs`.

    Raises:
        OptionError: there is none of that name, or the control does not go with it.
    """
    for end, control in CONTROLS.items():
        if name.endswith(end):
            return control(method_of(name.removesuffix(end), epochs))
    method = METHODS[name]
    if isinstance(method, (Iterated, ImpGlobal)):
        fitting: Method = method.within(epochs)
        return fitting
    return method
