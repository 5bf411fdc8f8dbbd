"""Makes a criterion of what a user gives as ``criterion``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from graphprune.criteria.by_group import ByGroup, Weights
from graphprune.criteria.criterion import CRITERIA, Criterion
from graphprune.criteria.torch_pruning import TorchPruning
from graphprune.errors import OptionError

Given = str | Criterion | Callable[[Weights], Tensor]
"""A name, a function of a program and its data, or a function of the weights of a group."""


def criterion_of(given: object) -> Criterion:
    """Makes a criterion of what a user gives.

    - A name stands for what is registered under it in `CRITERIA`.
    - An importance of torch-pruning is wrapped in `TorchPruning`.
    - A function of one argument is called with the weights of each group, see `ByGroup`.
    - A function ``(program, sensitivity)`` returns the importance of all channels, shape ``(channels,)``, see
      `Criterion`.

    Raises:
        OptionError: the name is unknown, or the object is none of these.
    """
    if isinstance(given, str):
        given = CRITERIA[given]
    if isinstance(given, type):
        name = given.__name__
        raise OptionError(f"criterion: expected a name or a callable, got the class {name}; give an object, {name}()")
    if not callable(given):
        raise OptionError(f"criterion: expected a name or a callable, got {type(given).__name__}")
    if _is_of_torch_pruning(given):
        return TorchPruning(given)
    return ByGroup(given) if _required_arguments(given) == 1 else given


def _is_of_torch_pruning(given: object) -> bool:
    """Whether an object is an importance of torch-pruning; if it is, torch-pruning has been imported already."""
    library: Any = sys.modules.get("torch_pruning")
    return library is not None and isinstance(given, library.importance.Importance)


def _required_arguments(given: Callable[..., Any]) -> int:
    """Number of positional arguments without a default; 2 if the callable has no signature."""
    try:
        parameters = inspect.signature(given).parameters.values()
    except (TypeError, ValueError):
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(1 for p in parameters if p.kind in positional and p.default is inspect.Parameter.empty)
