"""What a proof compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.program.facts import Fact


@dataclass(frozen=True)
class Verification(Fact):
    """What a proof compared, and how close the outputs are.

    Attributes:
        max_abs_error: Largest absolute difference between an output of the compact and of the masked program.
        scale: Largest absolute value in the outputs of the masked program.
        tolerance: Permitted error as a share of the scale.
        batch_sizes: Batch sizes that were tried.
        inputs_tried: Number of inputs that were tried.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("verify-prune",)

    max_abs_error: float
    scale: float
    tolerance: float
    batch_sizes: tuple[int, ...]
    inputs_tried: int

    @property
    def relative_error(self) -> float:
        """Largest error as a share of the output's scale; the error itself where the scale is 0."""
        return self.max_abs_error / self.scale if self.scale else self.max_abs_error
