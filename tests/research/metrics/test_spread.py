"""Mean and confidence over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.errors import OptionError
from graphprune.research.metrics import spread_over_seeds


def test_against_numpy() -> None:
    values = [0.8, 0.9, 0.85, 0.7, 0.95]
    spread = spread_over_seeds(values)
    assert spread.mean == pytest.approx(np.mean(values))
    assert spread.half_width == pytest.approx(1.96 * np.std(values, ddof=1) / np.sqrt(5))
    assert spread.to_dict()["values"] == values
    assert "n = 5" in str(spread)


def test_one_value_has_no_spread() -> None:
    assert spread_over_seeds([0.5]).half_width is None


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf")]])
def test_values_that_tell_nothing_are_refused(values: list[float]) -> None:
    with pytest.raises(OptionError, match="one finite value or more"):
        spread_over_seeds(values)
