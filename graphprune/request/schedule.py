"""Schedules: which cumulative sparsity each round reaches."""

from __future__ import annotations

from collections.abc import Callable

from graphprune.errors import OptionError
from graphprune.registry import Registry

Schedule = Callable[[float], list[float]]
"""Maps the final sparsity (share removed, in [0, 1)) to the cumulative sparsities after each round, ascending."""

SCHEDULES: Registry[Schedule] = Registry("schedule")

HALVINGS = 5


def targets_of(schedule: str | Schedule, sparsity: float) -> list[float]:
    """Returns the cumulative sparsity after each round.

    Args:
        schedule: A registered name, or a function.
        sparsity: The final sparsity, in [0, 1).

    Raises:
        OptionError: the name is unknown, or the function does not lead up to the final sparsity.
    """
    if not isinstance(schedule, str) and not callable(schedule):
        raise OptionError(f"schedule: expected a name or a function, got {type(schedule).__name__}")
    given: object = (SCHEDULES[schedule] if isinstance(schedule, str) else schedule)(sparsity)
    if not isinstance(given, (list, tuple)) or not all(isinstance(target, (int, float)) for target in given):
        raise OptionError(f"schedule: expected a list of sparsities, got {given!r}")
    targets = [float(target) for target in given]
    ascends = all(before <= after for before, after in zip([0.0, *targets], targets, strict=False))
    if not targets or not ascends or not abs(targets[-1] - sparsity) <= TOLERANCE:
        raise OptionError(f"schedule: expected ascending sparsities that end at {sparsity}, got {targets}")
    return [*targets[:-1], sparsity]


TOLERANCE = 1e-9
"""How far from the final sparsity a schedule may end: room for roundings in its arithmetic."""


@SCHEDULES.register("halving")
def halving(sparsity: float) -> list[float]:
    """Starts with half the network, then halves the gap to the goal five times, then closes it: seven rounds.

    Source: Algorithm 1 of the SNIP-it paper: kappa - (kappa - k0) 2^-i for i = 0..5, then kappa, with k0 = 0.5. For
    goals of half the network or less, which the paper does not cover, k0 = kappa / 2.
    """
    start = 0.5 if sparsity > 0.5 else sparsity / 2
    return [sparsity - (sparsity - start) * 2.0**-step for step in range(HALVINGS + 1)] + [sparsity]


@SCHEDULES.register("one-shot")
def one_shot(sparsity: float) -> list[float]:
    """Removes everything in one round."""
    return [sparsity]


@SCHEDULES.register("linear")
def linear(sparsity: float) -> list[float]:
    """Seven rounds, each of which removes the same share of the original network."""
    rounds = HALVINGS + 2
    return [sparsity * step / rounds for step in range(1, rounds)] + [sparsity]


@SCHEDULES.register("geometric")
def geometric(sparsity: float) -> list[float]:
    """Seven rounds, each of which removes the same share of the rest: density (1 - kappa)^(t/T), as in FORCE."""
    rounds = HALVINGS + 2
    return [1 - (1 - sparsity) ** (step / rounds) for step in range(1, rounds)] + [sparsity]
