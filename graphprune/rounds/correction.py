"""Corrects predictions of latency by measurements: each measurement sets the limit of the next prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphprune.deploy import TimingResult
from graphprune.errors import BudgetError
from graphprune.program.program import Program


@dataclass(frozen=True)
class Try:
    """One attempt at a round.

    Attributes:
        selected: The program with its selection.
        pruned: The compact program.
        limit_ms: Limit that the predicted latency had to keep to, in milliseconds.
        timing: Measurement of the compact program.
        share: Measured latency as a share of what is allowed.
    """

    selected: Program
    pruned: Program
    limit_ms: float
    timing: TimingResult
    share: float


@dataclass(frozen=True)
class Correction:
    """How predictions are corrected by measurements.

    Attributes:
        tries: Largest number of networks that are measured in a round.
        looks: Largest number of limits that are tried; several of them may give the same network.
        aim: Share of the budget that limits aim at; below 1, because measurements differ by about two percent.
        least: A measured latency between this share of the budget and the whole budget ends the correction.
        most: Largest measured latency of the best try that still counts as met, as a share of the budget.
        mistaken: How many times too high a prediction may be; a budget further below the predictions is not tried.
    """

    tries: int = 6
    looks: int = 16
    aim: float = 0.98
    least: float = 0.95
    most: float = 1.02
    mistaken: float = 1.5

    def corrected(
        self, tries: list[Try], attempt: Callable[[float], Try], narrowest_ms: float, widest_ms: float
    ) -> list[Try]:
        """Tries again until a measurement fits, with limits between two predictions; returns all tries.

        Args:
            tries: The first try, or several.
            attempt: Makes a try with a limit in milliseconds.
            narrowest_ms: Latency predicted for the narrowest permitted widths.
            widest_ms: Latency predicted for the present widths.

        Raises:
            BudgetError: no measurement fits.
        """
        while len({each.share for each in tries}) < self.tries and len(tries) < self.looks:
            if self.least <= tries[-1].share <= 1:
                break
            limit_ms = min(max(self._next_limit_ms(tries), narrowest_ms), max(widest_ms, tries[0].limit_ms))
            if any(abs(limit_ms - each.limit_ms) < 1e-3 * limit_ms for each in tries):
                break
            try:
                tries.append(attempt(limit_ms))
            except BudgetError:  # the limits permit nothing narrower: the tries so far have to do
                break
        best, count = min(each.share for each in tries), len({each.share for each in tries})
        if best > self.most:
            narrowest = " The narrowest permitted widths are among them." if tries[-1].limit_ms == narrowest_ms else ""
            raise BudgetError(
                f"latency: {best:.1%} of the budget measured at best, of {count} network{'s' if count > 1 else ''}."
                f"{narrowest} Ask for less, or lower min_channels or align"
            )
        return tries

    def _next_limit_ms(self, tries: Sequence[Try]) -> float:
        """The next limit, interpolated between the nearest tries below and above the aim, or scaled from the nearest.

        Scaling takes growing steps where it gave the same network again: a count may bind instead of the latency.
        """
        ordered = sorted(tries, key=lambda each: (each.share, each.limit_ms))
        below = next((each for each in reversed(ordered) if each.share <= self.aim), None)
        above = next((each for each in ordered if each.share > self.aim), None)
        if below is None or above is None:
            nearest = below or above or tries[-1]
            return nearest.limit_ms * (self.aim / nearest.share) ** sum(each.share == nearest.share for each in tries)
        same = [each for each in tries if each.share in (below.share, above.share)]
        # where a limit gave widths that were measured already, halving finds those in between, if there are any
        part = 0.5 if len(same) > 2 else (self.aim - below.share) / (above.share - below.share)
        return below.limit_ms + part * (above.limit_ms - below.limit_ms)
