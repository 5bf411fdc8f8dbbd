"""The networks of a sweep: as a table, as plain data, and as a plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from graphprune.compiled import Compiled
from graphprune.costs.measures import Measure
from graphprune.deploy import Latency, TimingResult
from graphprune.errors import OptionError

Kind = Literal["dense", "pruned", "uniform"]
DENSE: Kind = "dense"


@dataclass(frozen=True)
class Point:
    """One network of a sweep.

    Attributes:
        name: Name under which the network was timed.
        kind: ``"dense"``, ``"pruned"`` to a latency, or ``"uniform"``: every group loses the same share of channels,
            as in a narrower network of the same family with as many multiply-accumulates as the pruned one before it.
        requested: Share of the dense latency that had to be removed; None for the dense network.
        latency: Measured latency; all networks were timed in turns.
        latency_left: Measured latency as a share of the dense network's.
        costs: Channels, params, weights and macs of the network.
        accuracy: What ``evaluate`` gave; None without it.
    """

    name: str
    kind: Kind
    requested: float | None
    latency: Latency
    latency_left: float
    costs: dict[Measure, int]
    accuracy: float | None


@dataclass(frozen=True)
class Sweep:
    """All networks of a sweep.

    Attributes:
        model: Class name of the model.
        criterion: What ranked the channels.
        points: The dense network, then for each budget the pruned and the uniform one.
        timing: All measurements, with provider, threads, hardware and versions.
        unreachable: Why a budget has no point, by the share of latency to remove.
        compiled: The pruned networks, by the share of latency to remove.
    """

    model: str
    criterion: str
    points: tuple[Point, ...]
    timing: TimingResult
    unreachable: dict[float, str]
    compiled: dict[float, Compiled] = field(repr=False)

    def __str__(self) -> str:
        names = max(len(point.name) for point in self.points)
        lines = [
            f"{self.model}, ranked by {self.criterion}",
            f"{'':<{names}}{'latency ms':>12}{'p10 to p90':>22}{'left':>8}{'macs':>16}{'params':>14}{'accuracy':>10}",
        ]
        for point in self.points:
            of_one = point.latency
            spread = f"{of_one.p10_ms:.3f} to {of_one.p90_ms:.3f}"
            accuracy = "" if point.accuracy is None else f"{point.accuracy:.4f}"
            lines.append(
                f"{point.name:<{names}}{of_one.median_ms:>12.3f}{spread:>22}{point.latency_left:>8.1%}"
                f"{point.costs['macs']:>16,}{point.costs['params']:>14,}{accuracy:>10}".rstrip()
            )
        lines += [f"{100 * share:.4g}% less latency was not reached: {why}" for share, why in self.unreachable.items()]
        timing, versions = self.timing, ", ".join(f"{name} {of_it}" for name, of_it in self.timing.versions.items())
        lines.append(
            f"Medians of {timing.repeats} measurements in turns, batch {timing.batch_size}, {timing.provider}, "
            f"threads: {timing.threads}. {timing.hardware}; {versions}."
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "model": self.model, "criterion": self.criterion, "points": [asdict(point) for point in self.points],
            "unreachable": self.unreachable, "timing": self.timing.to_dict(),
        }  # fmt: skip

    def save(self, directory: str | Path) -> Path:
        """Writes ``sweep.json`` and ``sweep.svg`` into a directory, which is created if it does not exist.

        Raises:
            OptionError: matplotlib is missing; the JSON file is written nevertheless.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "sweep.json").write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
        return self.plot(directory / "sweep.svg")

    def plot(self, path: str | Path) -> Path:
        """Draws accuracy (multiply-accumulates if there is none) against latency; the suffix sets the file format.

        Raises:
            OptionError: matplotlib is missing.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise OptionError("a plot needs matplotlib; `pip install 'graphprune[plot]'`") from error
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.add_subplot()
        for kind, style in _STYLES.items():
            of_kind = [point for point in self.points if point.kind == kind]
            heights = [_height(point) for point in of_kind]
            axes.plot([point.latency.median_ms for point in of_kind], heights, style, label=kind)
        timing = self.timing
        axes.set_xlabel(f"latency in ms, batch {timing.batch_size}, {timing.provider}, threads: {timing.threads}")
        scored = self.points[0].accuracy is not None
        axes.set_ylabel("accuracy" if scored else "multiply-accumulates of a sample, in millions")
        axes.set_title(f"{self.model}, ranked by {self.criterion}")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path)
        return Path(path)


_STYLES: dict[Kind, str] = {"dense": "ks", "pruned": "o-", "uniform": "^--"}


def _height(point: Point) -> float:
    return point.costs["macs"] / 1e6 if point.accuracy is None else point.accuracy
