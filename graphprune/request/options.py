"""Checks of options, before anything else happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TypeGuard, get_args

from graphprune.errors import OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.program.program import Attention
from graphprune.registry import check_name
from graphprune.request.limits import Limits


def safe_floor(channels: int) -> int:
    """``min_channels="safe"``: two channels or 2 % of the layer, whichever is more, to avoid bottlenecks of one."""
    return max(2, -(-channels // 50))


def limits_of(min_channels: int | str | Callable[[int], int], align: int | str) -> Limits:
    """Returns the limits for floors and alignment as a user gives them.

    Raises:
        OptionError: a number is below 1 or not whole, or a name is unknown.
    """
    if isinstance(min_channels, str):
        if min_channels != "safe":
            raise OptionError(f"min_channels='{min_channels}': expected a number, a function, or 'safe'")
        min_channels = safe_floor
    if not callable(min_channels) and not is_count(min_channels):
        raise OptionError(f"min_channels={min_channels!r}: expected a whole number of at least 1")
    if align != "auto" and not is_count(align):
        raise OptionError(f"align={align!r}: expected a whole number of at least 1, or 'auto'")
    return Limits(min_channels, 1 if align == "auto" else int(align))


def attention_of(given: str, granularity: str = "channel") -> Attention:
    """Checks the name that says what is removed from attention.

    Raises:
        OptionError: the name is unknown, or means nothing because only weights are removed.
    """
    check_name("attention", given, get_args(Attention))
    if granularity == "weight" and given != "heads":
        raise OptionError(f"attention='{given}' is about channels; granularity='weight' removes none")
    return given  # type: ignore[return-value]


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_counts(**numbers: object) -> None:
    """Raises `OptionError` for an option, given by name, that is not a whole number of at least 1."""
    for name, value in numbers.items():
        if not is_count(value):
            raise OptionError(f"{name}={value!r}: expected a whole number of at least 1")


def check_seed(seed: object) -> None:
    """Raises `OptionError` for a seed that torch cannot take."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise OptionError(f"seed={seed!r}: expected a whole number from 0 to 2**63 - 1")


def check_positive(**numbers: object) -> None:
    """Raises `OptionError` for an option, given by name, that is not a finite number above 0."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
            raise OptionError(f"{name}={value!r}: expected a number above 0")


def check_switches(**switches: object) -> None:
    """Raises `OptionError` for an option, given by name, that is neither True nor False."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise OptionError(f"{name}={value!r}: expected True or False")


def check_options(samples: int, protect: object, seed: object, progress: object, runner: object) -> None:
    """Raises `OptionError` for values that cannot work with any model."""
    check_counts(samples=samples)
    if isinstance(protect, str):
        raise OptionError(f"protect='{protect}': expected a sequence of patterns, e.g. protect=('{protect}',)")
    if not isinstance(protect, Sequence) or not all(isinstance(pattern, str) for pattern in protect):
        raise OptionError(f"protect={protect!r}: expected a sequence of patterns, e.g. protect=('head', 'layer1.*')")
    check_seed(seed)
    if progress is not None and not callable(progress):
        raise OptionError(f"progress: expected a function (stage, done, total), got {type(progress).__name__}")
    if runner is not None and not isinstance(runner, Runner):
        raise OptionError(f"runner: expected a graphprune.runner.Runner, got {type(runner).__name__}")
