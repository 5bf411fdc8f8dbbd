"""A sweep ranks once, prunes to each latency, and puts the dense and evenly narrower networks beside the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune import Budget, Sweep, sweep, top_one
from graphprune.criteria import Sensitivity
from graphprune.errors import BudgetError, OptionError, UserError
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from tests.latency.counting import Counting
from tests.latency.stepped import HERE, Stepped

EXAMPLE = torch.randn(2, 3, 8, 8)
SHARES = (0.3, 0.6)


def network(width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(3):
        layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


class ByIndex:
    """The last channels of a group are the most important, and those of the first group more than all others."""

    calls = 0

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Tensor:
        type(self).calls += 1
        groups = program[Dependencies].groups
        return torch.cat([torch.arange(1, g.channels + 1) * (9 if g is groups[0] else 1) for g in groups])


@pytest.fixture(scope="module")
def result() -> Iterator[Sweep]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
        trained: list[int] = []
        ByIndex.calls = 0
        yield sweep(
            network(), EXAMPLE, SHARES, criterion=ByIndex(), target=Stepped(HERE, step=1), repeats=3,
            evaluate=lambda module: 0.5 + len(trained) / 100, finetune=lambda module: trained.append(1),
        )  # fmt: skip


def test_one_ranking_serves_all(result: Sweep) -> None:
    assert ByIndex.calls == 1
    assert result.criterion == "ByIndex" and result.model == "Sequential"


def test_dense_then_pruned_and_uniform_for_each_latency(result: Sweep) -> None:
    assert [(point.kind, point.requested) for point in result.points] == [
        ("dense", None), ("pruned", 0.3), ("uniform", 0.3), ("pruned", 0.6), ("uniform", 0.6),
    ]  # fmt: skip
    assert {point.name for point in result.points} == set(result.timing.latencies)
    dense, *others = result.points
    assert dense.latency_left == 1 and all(point.latency_left > 0 for point in others)
    for share in SHARES:  # the stopwatch of this test counts multiply-accumulates
        left = 1 - result.compiled[share].report.achieved["macs"]
        assert 0.9 * (1 - share) < left <= 1.02 * (1 - share)


def test_a_uniform_network_loses_the_same_share_everywhere(result: Sweep) -> None:
    pruned = {point.requested: point for point in result.points if point.kind == "pruned"}
    for point in result.points:
        if point.kind == "uniform":
            assert 0.9 < point.costs["macs"] / pruned[point.requested].costs["macs"] <= 1.0  # to a channel of 32
    widths = [row.after for row in result.compiled[0.6].report.groups]
    assert widths[0] > min(widths)  # the ranking itself is not even


def test_networks_are_trained_before_they_are_evaluated(result: Sweep) -> None:
    # the dense one before anything else is done; four others were trained by then
    assert [point.accuracy for point in result.points] == [0.5, *[0.54] * 4]


def test_what_is_written(result: Sweep, tmp_path: Path) -> None:
    plot = result.save(tmp_path / "new")
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    stored = json.loads((tmp_path / "new" / "sweep.json").read_text(encoding="utf-8"))
    assert [point["name"] for point in stored["points"]] == [point.name for point in result.points]
    assert stored["timing"]["hardware"] and stored["timing"]["versions"]


def test_without_matplotlib(result: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'graphprune\[plot\]'"):
        result.save(tmp_path)
    assert (tmp_path / "sweep.json").exists()


def test_a_latency_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    options: dict[str, Any] = {"target": Stepped(HERE, step=1), "repeats": 3, "min_channels": 16}
    found = sweep(network(), EXAMPLE, (0.5, 0.99), **options)
    assert [point.requested for point in found.points] == [None, 0.5, 0.5]
    assert "latency" in found.unreachable[0.99]
    with pytest.raises(BudgetError, match="latency"):
        sweep(network(), EXAMPLE, (0.99,), **options)


def test_what_torch_compile_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    wrapped: Any = torch.compile(network())
    found = sweep(wrapped, EXAMPLE, (0.5,), target=Stepped(HERE, step=1), repeats=3, evaluate=lambda module: 1)
    assert found.model == "Sequential"
    assert "_orig_mod" not in " ".join(found.compiled[0.5].module.state_dict())


@pytest.mark.parametrize("shares", [(), (0.0,), (0.5, 1.0), ("half",)])
def test_wrong_shares(shares: Any) -> None:
    with pytest.raises(OptionError, match=r"expected shares of the latency to remove, each in \(0, 1\)"):
        sweep(network(), EXAMPLE, shares)


def test_shares_that_are_close_or_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.rounds.choice.Stopwatch", Counting)
    found = sweep(network(), EXAMPLE, iter((0.5, 0.504, 0.5)), target=Stepped(HERE, step=1), repeats=3)  # type: ignore[arg-type]
    names = [point.name for point in found.points]
    assert names == ["dense", "pruned -50%", "uniform -50%", "pruned -50.4%", "uniform -50.4%"]
    assert len({id(point.latency) for point in found.points}) == 5


@pytest.mark.parametrize(
    ("shares", "options", "message"),
    [
        (0.5, {}, r"latencies=0\.5: expected several shares"),
        ((0.5,), {"budget": Budget(macs=0.5)}, r"sweep: budget= cannot be given; latencies= says"),
        ((0.5,), {"evaluate": 5}, r"evaluate=5: expected a function of a network"),
        ((0.5,), {"evaluate": lambda module: None}, r"evaluate gave None for a network: expected a number"),
        ((0.5,), {"evaluate": top_one}, r"top_one: expected a list or data loader of batches"),
        ((0.5,), {"evaluate": lambda module: torch.tensor(1j)}, r"evaluate gave tensor\(0\.\+1\.j\) for a network"),
        ((0.5,), {"evaluate": pytest.fail, "criterion": "beauty"}, r"'beauty'"),
        ((0.5,), {"evaluate": pytest.fail, "sample": 3}, r"there is no option 'sample'; there are those of compile"),
        ((0.5,), {"repeats": 0}, r"repeats=0: expected a whole number of at least 1"),
        ((0.5,), {"schedule": "halving", "sparsity": 0.5}, r"sweep: sparsity=, schedule= cannot be given"),
    ],
)
def test_options_that_a_sweep_decides(shares: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        sweep(network(), EXAMPLE, shares, **options)


def test_top_one() -> None:
    module = nn.Sequential(nn.Dropout(0.9), nn.Identity()).train()
    batches = [(torch.eye(4), torch.arange(4)), (torch.eye(4)[:2], torch.tensor([3, 3]))]
    assert top_one(batches)(module) == pytest.approx(4 / 6)
    assert module.training
    module[0].eval()  # frozen, while the rest trains
    assert top_one(batches)(module) == pytest.approx(4 / 6)
    assert [module.training, module[0].training] == [True, False]
    for target in (torch.arange(4)[:, None], torch.eye(4)):
        with pytest.raises(OptionError, match=r"expected logits \(N, classes\) and targets \(N\), got \(4, 4\)"):
            top_one([(torch.eye(4), target)])(module)


@pytest.mark.parametrize("batches", [5, iter([(torch.eye(4), torch.arange(4))]), nn.Sequential(nn.Linear(2, 2))])
def test_what_cannot_be_gone_through_for_each_network(batches: Any) -> None:
    with pytest.raises(OptionError, match=r"top_one: expected a list or data loader of batches") as error:
        top_one(batches)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "top_one: there are no batches"),
        ((torch.eye(4), torch.arange(4)), r"expected batches .*, got Tensor; a single batch is given as"),
        ([(torch.eye(4), torch.arange(4), "names")], r"expected batches \(inputs, target\), got tuple of 3"),
        ([(torch.eye(4), [0, 1, 2, 3])], r"got \(4, 4\) of torch.float32 and list"),
    ],
)
def test_batches_that_tell_no_accuracy(batches: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        top_one(batches)(nn.Identity())


def test_outputs_that_tell_no_accuracy() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(OptionError, match=r"expected logits \(N, classes\) and targets \(N\), got tuple of 2 tensors"):
        top_one([(torch.eye(4), torch.arange(4))])(Two())
