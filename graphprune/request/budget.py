"""Budgets: how much has to go."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf
from numbers import Real
from typing import TypeGuard

from graphprune.costs.measures import MEASURES, Measure
from graphprune.errors import OptionError


@dataclass(frozen=True, repr=False)
class Budget:
    """Shares to be removed, each in [0, 1); all that are given must hold.

    Attributes:
        channels: Share of the prunable channels.
        params: Share of all parameters.
        weights: Share of the weights of convolutions, linear layers and other matrix products; a zero is removed.
        macs: Share of the multiply-accumulates per sample.
        latency: Share of the measured latency.
        latency_ms: Cap on the measured latency, in milliseconds.

    Raises:
        OptionError: a share is outside [0, 1), the cap is not above 0, or nothing is given.
    """

    channels: float | None = None
    params: float | None = None
    weights: float | None = None
    macs: float | None = None
    latency: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if all(getattr(self, entry.name) is None for entry in fields(self)):
            raise OptionError("the budget is empty; give channels=, params=, weights=, macs=, latency= or latency_ms=")
        for name in (*MEASURES, "latency"):
            share = getattr(self, name)
            if share is not None and not is_share(share):
                raise _wrong(f"budget {name}", share, "the share to remove, in [0, 1)")
        if self.latency_ms is not None and not _is_time(self.latency_ms):
            raise _wrong("budget latency_ms", self.latency_ms, "milliseconds above 0")

    def __repr__(self) -> str:
        """Shows the shares and the cap that were given."""
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return f"Budget({', '.join(f'{name}={value}' for name, value in given.items() if value is not None)})"

    def shares(self) -> dict[Measure, float]:
        """The shares that were given, by measure, without latency."""
        return {name: share for name in MEASURES if (share := getattr(self, name)) is not None}

    @property
    def is_timed(self) -> bool:
        """Whether the budget limits latency."""
        return self.latency is not None or self.latency_ms is not None

    def timed_from(self, dense_ms: float) -> Budget:
        """Returns the budget with its latency cap also as a share; if a share was given too, the stricter one counts.

        Args:
            dense_ms: Latency of the dense network, in milliseconds.

        Raises:
            OptionError: the cap is not below the dense network's latency.
        """
        if self.latency_ms is None:
            return self
        share = 1 - self.latency_ms / dense_ms
        if share <= 0:
            raise OptionError(
                f"budget latency_ms={self.latency_ms}: the dense network takes {dense_ms:.4g} ms already; ask for less"
            )
        return replace(self, latency=max(share, self.latency or 0.0))

    @property
    def sparsity(self) -> float:
        """The largest of the shares: what a schedule leads up to."""
        return max([*self.shares().values(), self.latency or 0.0])

    def scaled(self, sparsity: float) -> Budget:
        """Returns the budget of the round in which the schedule reaches ``sparsity`` out of `self.sparsity`."""
        part = sparsity / self.sparsity if self.sparsity else 0.0
        shares = {name: share * part for name, share in self.shares().items()}
        return Budget(**shares, latency=None if self.latency is None else self.latency * part)


def is_share(value: object) -> bool:
    """Whether a value is a share in [0, 1)."""
    return _is_number(value) and 0 <= value < 1


def _is_time(value: object) -> bool:
    return _is_number(value) and 0 < value < inf


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _wrong(name: str, value: object, wanted: str) -> OptionError:
    """The error for a value, with its type where the value looks like a number but is not one (``"0.5"``)."""
    kind = "" if _is_number(value) else f"; got a {type(value).__name__}"
    return OptionError(f"{name}={value}: expected {wanted}{kind}")


def _checked(budget: object) -> Budget:
    if not isinstance(budget, Budget):
        raise OptionError(f"budget={budget!r}: expected a graphprune.Budget, e.g. Budget(params=0.5)")
    return budget


def budget_of(sparsity: float | None, budget: Budget | None, counted: Measure = "channels") -> Budget:
    """Returns the budget that a user means; by default half of what ``counted`` names is removed.

    Args:
        sparsity: Share of what ``counted`` names to remove, in [0, 1).
        budget: The budget, where it is given as such.
        counted: The measure that ``sparsity`` is a share of.

    Raises:
        OptionError: both are given, or the sparsity is out of range.
    """
    if sparsity is not None and budget is not None:
        raise OptionError("give sparsity= or budget=, not both")
    if budget is not None:
        return _checked(budget)
    if sparsity is not None and not is_share(sparsity):
        raise _wrong("sparsity", sparsity, f"the share of {counted} to remove, in [0, 1)")
    return Budget(**{counted: 0.5 if sparsity is None else float(sparsity)})
