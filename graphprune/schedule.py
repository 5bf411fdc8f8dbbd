"""Schedules: which cumulative sparsity each round reaches."""

from __future__ import annotations

from collections.abc import Callable

from graphprune.registry import Registry

Schedule = Callable[[float], list[float]]
"""From the final sparsity (share removed, in [0, 1)) to the cumulative sparsity after each round, ascending."""

SCHEDULES: Registry[Schedule] = Registry("schedule")

HALVINGS = 5


@SCHEDULES.register("halving")
def halving(sparsity: float) -> list[float]:
    """Starts at half the network at most, then halves the gap to the goal five times, then closes it: seven rounds.

    Source: Algorithm 1 of the SNIP-it paper: kappa - (kappa - k0) 2^-i for i = 0..5, then kappa, k0 = min(0.5, kappa / 2).
    """
    start = min(0.5, sparsity / 2)
    return [sparsity - (sparsity - start) * 2.0**-step for step in range(HALVINGS + 1)] + [sparsity]


@SCHEDULES.register("one-shot")
def one_shot(sparsity: float) -> list[float]:
    """Everything in one round."""
    return [sparsity]


@SCHEDULES.register("linear")
def linear(sparsity: float) -> list[float]:
    """Seven rounds that remove the same share of the original network each."""
    rounds = HALVINGS + 2
    return [sparsity * step / rounds for step in range(1, rounds)] + [sparsity]


@SCHEDULES.register("geometric")
def geometric(sparsity: float) -> list[float]:
    """Seven rounds that remove the same share of what is left each: density (1 - kappa)^(t/T), as in FORCE."""
    rounds = HALVINGS + 2
    return [1 - (1 - sparsity) ** (step / rounds) for step in range(1, rounds)] + [sparsity]
