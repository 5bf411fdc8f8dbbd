"""A target without hardware: latencies by a formula, with steps that are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, prod

from graphprune.latency.kernels import Kernel
from graphprune.latency.profiles import Profile, Target

HERE = Target("formula", "0", "CPUExecutionProvider", threads=1, batch_size=1)


@dataclass(eq=False)
class Stepped(Profile):
    """Each operator takes as long as one whose widths are the next multiples of ``step``."""

    step: int = 8

    def ms(self, kernels: Iterable[Kernel]) -> list[float]:
        """By the number of multiply-accumulates."""
        return [self._ms(kernel) for kernel in kernels]

    def _ms(self, kernel: Kernel) -> float:
        entries, rows, *widths = kernel.sizes
        if kernel.window is not None:  # of a convolution the second size is a width as well
            widths = [rows, *widths] if rows > 1 else widths
            entries, rows = entries * prod(kernel.window.size) * prod(kernel.window.kernel), 1
        return 1e-3 + 1e-6 * entries * rows * prod(ceil(width / self.step) * self.step for width in widths)
