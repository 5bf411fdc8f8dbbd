"""Mean and confidence over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphprune.errors import OptionError

NORMAL_95 = 1.96
"""Half-width in standard errors of the interval that holds a normal variable with 95 %, for any number of seeds."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: Mean of the values.
        half_width: 1.96 sigma / sqrt(n), sigma with n - 1; None for one value, of which nothing can be told.
        values: One for each seed.
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return asdict(self) | {"values": list(self.values)}

    def __str__(self) -> str:
        spread = "" if self.half_width is None else f" +- {self.half_width:.4g}"
        return f"{self.mean:.4g}{spread} (n = {len(self.values)})"


def spread_over_seeds(values: Sequence[float]) -> Spread:
    """Returns the mean and the half-width 1.96 sigma / sqrt(n).

    Raises:
        OptionError: there are no values, or one is not finite. A mean over only the runs that worked would be too good.
    """
    if not values or not all(map(math.isfinite, values)):
        raise OptionError(f"expected one finite value or more, got {list(values)}; leave a failed seed out openly")
    half = NORMAL_95 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Spread(statistics.fmean(values), half, tuple(map(float, values)))
