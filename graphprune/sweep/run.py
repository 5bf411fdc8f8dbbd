"""Accuracy against measured latency over a range of budgets, beside the dense network and evenly narrower ones."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from graphprune.capture import unwrapped
from graphprune.compile import compile
from graphprune.compiled import Compiled
from graphprune.costs.measures import Measure
from graphprune.criteria import Evenly, Given, Sensitivity, criterion_of, name_of
from graphprune.criteria.criterion import scores_of
from graphprune.criteria.scores import Scores
from graphprune.deploy import TimingResult, export_onnx, onnx_feeds, time_interleaved
from graphprune.deploy.sessions import CUDA
from graphprune.errors import BudgetError, OptionError, shown
from graphprune.latency import Profile
from graphprune.program.example import Example
from graphprune.program.program import Program
from graphprune.pruner import Pruner
from graphprune.request.budget import Budget, is_share
from graphprune.request.options import check_counts
from graphprune.request.settings import Progress, silent
from graphprune.request.signatures import takes_options_of
from graphprune.sweep.result import DENSE, Kind, Point, Sweep

_log = logging.getLogger(__name__)

_OWN = ("sparsity", "budget", "schedule", "granularity")
"""Options of `graphprune.compile` that a sweep sets itself."""

LATENCIES = (0.3, 0.5, 0.7)
"""Shares of the latency that a sweep removes by default."""


@takes_options_of(Pruner, but=_OWN)
def sweep(
    model: nn.Module,
    example_input: Any,
    latencies: Sequence[float] = LATENCIES,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    finetune: Callable[[nn.Module], object] | None = None,
    criterion: Given = "elasticity",
    target: Profile | None = None,
    repeats: int = 30,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """Prunes a model to several latencies, from one ranking of its channels.

    The ranking is that of the dense model, so every network is pruned in one round. For schedules of several rounds,
    which rank anew in each round, call `graphprune.compile` for each budget.

    Args:
        model: The model, see `graphprune.compile`; it is not changed.
        example_input: An example of its input, see `graphprune.compile`.
        latencies: Shares of the dense network's measured latency to remove, each in (0, 1).
        evaluate: Gives the accuracy of a network, see `graphprune.top_one`; of the dense one at first.
        finetune: Trains a pruned or uniform network in place, before it is evaluated.
        criterion: See `graphprune.compile`.
        target: What latency is measured on; this machine on one thread by default.
        repeats: Number of measurements of each latency.
        progress: Function that is called with the stage, networks done, and networks in all.
        **options: Further options of `graphprune.compile`: data, loss, samples, protect, min_channels and so on.

    Raises:
        OptionError: a share is not in (0, 1), or there is none; ``evaluate`` gives no number.
        BudgetError: none of them can be reached.
        UserError: see `graphprune.compile`.
    """
    shares = _checked(latencies, {"evaluate": evaluate, "finetune": finetune}, options)
    check_counts(repeats=repeats)
    model, example = unwrapped(model), Example.of(example_input)
    target = target or Profile.here(batch_size=example.batch_size)
    networks = _Networks(model, example_input, _Ranking(criterion), target, finetune, options)
    report, accuracy = progress or silent, None if evaluate is None else _accuracy(evaluate, model)
    for index, share in enumerate(shares):
        report(f"prune to {100 * (1 - share):.4g}% of the latency", index, len(shares))
        networks.add(share)
    if not networks.found:
        raise BudgetError("; ".join(networks.unreachable.values()))
    report("time all networks in turns", len(shares), len(shares))
    timing = _timed(model, example, networks.found, networks.evenly, target, repeats)
    points = _points(accuracy, networks.found, networks.evenly, timing, evaluate)
    name = networks.ranking.__name__
    return Sweep(type(model).__name__, name, points, timing, networks.unreachable, networks.found)


class _Ranking:
    """A criterion that scores the dense model once, and gives the same scores from then on."""

    def __init__(self, given: Given) -> None:
        self._criterion = criterion_of(given)
        self.__name__ = given if isinstance(given, str) else name_of(given)
        self._scores: Scores | None = None

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        if self._scores is None:
            self._scores = scores_of(self._criterion, program, sensitivity)
        return self._scores


@dataclass
class _Networks:
    """The networks of a sweep, by the share of the latency that each loses.

    Attributes:
        model: The dense model.
        example_input: Example input of the model.
        ranking: Ranks the channels.
        target: What latency is measured on.
        finetune: Trains a network that was pruned.
        options: Further ones of `graphprune.compile`.
        found: Pruned by the ranking.
        evenly: Pruned by as many operations, evenly from all groups.
        unreachable: Why there is no network.
    """

    model: nn.Module
    example_input: Any
    ranking: _Ranking
    target: Profile
    finetune: Callable[[nn.Module], object] | None
    options: dict[str, Any]
    found: dict[float, Compiled] = field(default_factory=dict)
    evenly: dict[float, Compiled] = field(default_factory=dict)
    unreachable: dict[float, str] = field(default_factory=dict)

    def add(self, share: float) -> None:
        """Makes the two networks of a share, as far as their budgets can be reached."""
        try:
            self.found[share] = self._pruned(Budget(latency=share), self.ranking)
        except BudgetError as error:
            self.unreachable[share] = str(error)
            return
        try:
            macs = self.found[share].report.achieved["macs"]
            self.evenly[share] = self._pruned(Budget(macs=macs), Evenly(self.ranking))
        except BudgetError as error:  # because of frozen channels or floors, even pruning may save less than a ranking
            _log.warning("no uniform network beside %s: %s", _name("pruned", share), error)

    def _pruned(self, budget: Budget, by: Given) -> Compiled:
        compiled = compile(
            self.model, self.example_input, budget=budget, criterion=by, schedule="one-shot", target=self.target,
            **self.options,
        )  # fmt: skip
        if self.finetune is not None:
            self.finetune(compiled.module)
        return compiled


def _checked(latencies: Sequence[float], functions: dict[str, object], options: dict[str, Any]) -> tuple[float, ...]:
    """Checks the arguments of a sweep; returns the shares, each once.

    Raises:
        OptionError: a share, a function or an option is invalid.
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise OptionError(f"{name}={shown(function)}: expected a function of a network")
    taken = [f"{name}=" for name in _OWN if name in options]
    if taken:
        raise OptionError(f"sweep: {', '.join(taken)} cannot be given; latencies= says how much goes, in one round")
    known = inspect.signature(Pruner).parameters
    if unknown := [name for name in options if name not in known]:
        raise OptionError(f"sweep: there is no option '{unknown[0]}'; there are those of compile: {', '.join(known)}")
    try:
        shares = tuple(dict.fromkeys(latencies))
    except TypeError as error:
        raise OptionError(f"latencies={latencies!r}: expected several shares, such as (0.3, 0.5)") from error
    if not shares or not all(is_share(share) and share for share in shares):
        raise OptionError(f"latencies={[*shares]}: expected shares of the latency to remove, each in (0, 1)")
    return shares


def _timed(
    model: nn.Module, example: Example, found: dict[float, Compiled], evenly: dict[float, Compiled], target: Profile,
    repeats: int,
) -> TimingResult:  # fmt: skip
    on = target.target
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {DENSE: Path(folder) / "dense.onnx"}
        export_onnx(model, example.args, example.kwargs, files[DENSE], precision=on.dtype)
        for kind, networks in {"pruned": found, "uniform": evenly}.items():
            for share, compiled in networks.items():
                path = files[_name(kind, share)] = Path(folder) / f"{len(files)}.onnx"
                compiled.export_onnx(path, precision=on.dtype)
        feeds = onnx_feeds(model, example.resized(on.batch_size))
        provider = "cuda" if on.provider == CUDA else "cpu"
        return time_interleaved(files, feeds, provider=provider, threads=on.threads, repeats=repeats)


def _name(kind: str, share: float) -> str:
    return f"{kind} -{100 * share:.15g}%"


def _accuracy(evaluate: Callable[[nn.Module], float], module: nn.Module) -> float:
    """Returns the accuracy that ``evaluate`` gives for a network.

    Raises:
        OptionError: ``evaluate`` gives no number.
    """
    found: Any = evaluate(module)
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"evaluate gave {shown(found)} for a network: expected a number") from error


def _points(
    accuracy: float | None, found: dict[float, Compiled], evenly: dict[float, Compiled], timing: TimingResult,
    evaluate: Callable[[nn.Module], float] | None,
) -> tuple[Point, ...]:  # fmt: skip
    """Returns all points; ``accuracy`` is that of the dense network."""

    def point(kind: Kind, share: float, compiled: Compiled) -> Point:
        name = _name(kind, share)
        left = 1 / timing.speedup(DENSE, name).pairwise_median
        accuracy = None if evaluate is None else _accuracy(evaluate, compiled.module)
        return Point(name, kind, share, timing.latencies[name], left, _costs(compiled, 1), accuracy)

    first = next(iter(found.values()))
    points = [Point(DENSE, DENSE, None, timing.latencies[DENSE], 1.0, _costs(first, 0), accuracy)]
    networks: dict[Kind, dict[float, Compiled]] = {"pruned": found, "uniform": evenly}
    for share in found:
        for kind, by_share in networks.items():
            if share in by_share:
                points.append(point(kind, share, by_share[share]))
    return tuple(points)


def _costs(compiled: Compiled, which: int) -> dict[Measure, int]:
    """Costs of a network before pruning (``which`` is 0) or after it (1)."""
    return {measure: before_after[which] for measure, before_after in compiled.report.costs.items()}
