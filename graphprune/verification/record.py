"""What a proof compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.program.facts import Fact


@dataclass(frozen=True)
class Verification(Fact):
    """What was compared.

    Attributes:
        max_abs_error: Largest difference between an output of the compact and of the masked program.
        scale: Largest absolute output of the masked program.
        tolerance: Permitted share of the scale.
        batch_sizes: Batch sizes that were tried.
        inputs_tried: Number of inputs.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("verify-prune",)

    max_abs_error: float
    scale: float
    tolerance: float
    batch_sizes: tuple[int, ...]
    inputs_tried: int

    @property
    def relative_error(self) -> float:
        """Error as a share of the output's scale."""
        return self.max_abs_error / self.scale if self.scale else self.max_abs_error
