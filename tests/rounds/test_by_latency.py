"""A latency budget is predicted, measured and corrected until the measurement fits; the other budgets hold as well."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import Budget
from graphprune.deploy import TimingResult
from graphprune.errors import BudgetError, NothingToPruneError, OptionError
from graphprune.latency.kernels import Kernel
from tests.latency.counting import Counting
from tests.latency.stepped import HERE, Stepped

EXAMPLE = torch.randn(2, 3, 8, 8)


@pytest.fixture(params=[1.0, 0.8, 1.2])
def power(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(Counting, "power", request.param)
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    return float(request.param)


def network(width: int = 64) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(4):
        layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.Conv2d(width, 4, 1))


def compiled(budget: Budget, **options: Any) -> graphprune.Compiled:
    defaults: dict[str, Any] = {"criterion": "l2-norm", "schedule": "one-shot", "target": Stepped(HERE, step=4)}
    options = defaults | options
    return graphprune.compile(network(), EXAMPLE, budget=budget, **options)


def share_left(found: graphprune.Compiled) -> float:
    timing = found.report.timing
    assert timing is not None
    return timing.latencies["compact"].median_ms / timing.latencies["dense"].median_ms


@pytest.mark.parametrize("schedule", ["one-shot", "halving"])
def test_the_measurement_is_what_was_asked_for(power: float, schedule: str) -> None:
    found = compiled(Budget(latency=0.6), schedule=schedule)
    assert 0.95 * 0.4 <= share_left(found) <= 0.4 * 1.02
    assert found.verify().relative_error < 1e-5


def test_a_cap_in_milliseconds(power: float) -> None:
    first = compiled(Budget(latency=0.5)).report.timing
    assert first is not None
    dense_ms = first.latencies["dense"].median_ms
    cap_ms = 0.3 * dense_ms
    timing = compiled(Budget(latency_ms=cap_ms)).report.timing
    assert timing is not None
    assert 0.95 * cap_ms <= timing.latencies["compact"].median_ms <= 1.02 * cap_ms
    with pytest.raises(OptionError, match="the dense network takes"):
        compiled(Budget(latency_ms=10 * dense_ms))


def test_other_budgets_hold_too(power: float) -> None:
    found = compiled(Budget(latency=0.3, params=0.8))
    assert found.report.achieved["params"] >= 0.8
    assert share_left(found) <= 0.7 * 1.02


def test_what_cannot_be_measured_is_an_error(power: float) -> None:
    with pytest.raises(BudgetError, match="latency"):
        compiled(Budget(latency=0.9), protect=("0", "2", "4", "6"))


@dataclass(eq=False)
class Busy(Stepped):
    """Measured while the machine was busy: what is narrow seemed to take longer than what is wide."""

    def ms(self, kernels: Iterable[Kernel]) -> list[float]:
        return [1 / (1 + self._ms(kernel)) if self.of_before else self._ms(kernel) for kernel in kernels]


def test_measurements_of_before_that_lead_nowhere_are_made_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    found = compiled(Budget(latency=0.6), target=Busy(HERE, of_before=True, step=4))
    assert 0.95 * 0.4 <= share_left(found) <= 0.4 * 1.02
    assert "Measuring operators anew" in caplog.text
    with pytest.raises(BudgetError, match="latency"):  # what is measured now counts
        compiled(Budget(latency=0.9), target=Busy(HERE, of_before=True, step=4), protect=("0", "2", "4", "6"))


def test_a_latency_that_removes_nothing_is_an_error() -> None:
    with pytest.raises(NothingToPruneError, match=r"the budget latency=0\.0 would remove nothing"):
        compiled(Budget(latency=0.0))


def test_a_target_is_a_profile() -> None:
    with pytest.raises(OptionError, match=r"target=3: expected what graphprune\.profile\(\) gives"):
        compiled(Budget(macs=0.5), target=3, align="auto")


def test_widths_suit_the_target() -> None:
    found = graphprune.compile(
        network(), EXAMPLE, sparsity=0.4, criterion="random", schedule="one-shot", align="auto",
        target=Stepped(HERE, step=8),
    )  # fmt: skip
    assert {layer.out_channels % 8 for layer in found.module.modules() if isinstance(layer, nn.Conv2d)} <= {0, 4}


@pytest.mark.parametrize("schedule", ["halving", "one-shot"])
def test_coarse_steps_do_not_go_far_beyond_a_count(schedule: str) -> None:
    found = graphprune.compile(
        network(), EXAMPLE, budget=Budget(macs=0.5), criterion="l2-norm", schedule=schedule, align="auto",
        target=Stepped(HERE, step=16),
    )  # fmt: skip
    # of 64 channels 16 go at once: a quarter of two layers' multiply-accumulates
    assert 0.5 <= found.report.achieved["macs"] < 0.62


def test_a_criterion_that_is_a_square_is_not_squared_again() -> None:
    """Taylor's importance is the square of the signed elasticity, but for a factor that all channels share."""
    model = network()
    kept = [
        graphprune.compile(
            model, EXAMPLE, budget=Budget(macs=0.5), criterion=criterion, accumulate="signed", align="auto",
            target=Stepped(HERE), schedule="one-shot",
        ).plan.kept
        for criterion in ("taylor", "elasticity")
    ]  # fmt: skip
    assert kept[0].keys() == kept[1].keys() and all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


def test_the_same_widths_are_not_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    monkeypatch.setattr(Counting, "power", 0.8)
    seen: list[tuple[int, ...]] = []

    def time(self: Counting, compact: nn.Module | None = None, measure: Any = Counting.time) -> TimingResult:
        if compact is not None:
            seen.append(tuple(layer.out_channels for layer in compact.modules() if isinstance(layer, nn.Conv2d)))
        found: TimingResult = measure(self, compact)
        return found

    monkeypatch.setattr(Counting, "time", time)
    graphprune.compile(
        network(32), EXAMPLE, budget=Budget(latency=0.5), criterion="l2-norm", schedule="one-shot",
        target=Stepped(HERE, step=16), verify=False,
    )  # fmt: skip
    assert len(seen) == len(set(seen))


def test_steps_that_bind_are_named() -> None:
    with pytest.raises(BudgetError, match=r"min_channels=50, align='auto' keep g0 .*: 64 of 64 in steps of 16;"):
        graphprune.compile(
            network(), EXAMPLE, sparsity=0.2, min_channels=50, align="auto", criterion="l2-norm",
            target=Stepped(HERE, step=16),
        )  # fmt: skip


def test_a_round_has_nothing_to_do_where_an_earlier_one_measured_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    found = compiled(Budget(latency=0.5), schedule=lambda share: [0.99 * share, share])  # two percent more are aimed at
    first, second = found.report.rounds
    assert first.removed and not second.removed
    assert 0.95 * 0.5 <= share_left(found) <= 0.5


def test_a_count_that_binds_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    stages: list[str] = []
    found = compiled(Budget(latency=0.5, params=0.6), progress=lambda stage, done, total: stages.append(stage))
    assert 0.6 <= found.report.achieved["params"] < 0.61
    assert 0.35 < share_left(found) < 0.95 * 0.5  # no wider network has as few parameters
    assert stages.count("select") <= 6 and stages.count("measure") == 1


def test_the_narrowest_widths_are_named_where_they_are_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    narrowest = r"of 1 network\. The narrowest permitted widths are among them\. Ask for less"
    with pytest.raises(BudgetError, match=narrowest):
        compiled(Budget(latency=0.95), min_channels=17)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pruner: pickle.loads(pickle.dumps(pruner))])
def test_a_pruner_with_a_latency_budget_is_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    pruner = graphprune.Pruner(
        network(8), EXAMPLE, budget=Budget(latency=0.3), schedule="linear", criterion="l2-norm",
        target=Stepped(HERE, step=1),
    )  # fmt: skip
    pruner.step()
    copied = again(pruner)
    del pruner
    gc.collect()  # takes its files along
    copied.step()
    assert copied.report().timing is not None
