"""The measures that a budget can limit."""

from __future__ import annotations

from typing import Literal, get_args

Measure = Literal["channels", "params", "weights", "macs"]
"""What a budget counts: prunable channels, parameters, weights of convolutions and matrix products that are not zero,
or multiply-accumulates per sample."""


MEASURES: tuple[Measure, ...] = get_args(Measure)
