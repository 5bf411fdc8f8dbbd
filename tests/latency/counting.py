"""A stopwatch without a clock."""

from __future__ import annotations

from torch import fx

from graphprune.costs.model import count_macs
from graphprune.deploy import Latency, TimingResult, describe_hardware
from graphprune.latency.profiles import Target
from graphprune.program.example import Example


class Counting:
    """A stopwatch that shows multiply-accumulates, to a power: measurements that predictions do not foresee."""

    power = 1.0

    def __init__(self, dense: fx.GraphModule, example: Example, target: Target) -> None:
        self.example, self.dense_ms, self.timed = example, self._ms(dense, example), 0

    def _ms(self, module: fx.GraphModule, example: Example) -> float:
        return float((1e-6 * count_macs(module, list(example.args), example.batch_size)) ** self.power)

    def time(self, compact: fx.GraphModule | None = None) -> TimingResult:
        """Latencies by count."""
        self.timed += 1
        times = {"dense": self.dense_ms}
        if compact is not None:
            times["compact"] = self._ms(compact, self.example)
        return TimingResult(
            "CPUExecutionProvider", "", 1, 1, 1, 3, describe_hardware(), {},
            {name: Latency.of((ms,) * 3) for name, ms in times.items()}, {},
        )  # fmt: skip
