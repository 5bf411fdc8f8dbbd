"""Bad input gets a named error that says what failed, what was expected and what to do; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Budget
from graphprune.errors import (
    BudgetError,
    CaptureError,
    GraphPruneError,
    InputError,
    InternalError,
    LossError,
    NothingToPruneError,
    OptionError,
    UserError,
)
from graphprune.registry import Registry
from graphprune.request.budget import budget_of
from tests.small_models import CLASSES, Chain, Mlp, Residual, images

Options = dict[str, Any]


def compile_(model: nn.Module | None = None, example: Any = None, **options: Any) -> graphprune.Compiled:
    if example is None:
        example = images(2)
    defaults: Options = {"samples": 4, "schedule": "one-shot"}
    if not options.keys() & {"sparsity", "budget"}:
        defaults["sparsity"] = 0.5
    return graphprune.compile(model or Chain(), example, **(defaults | options))


def batch(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(images(count), torch.randint(CLASSES, (count,)))]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever is refused, no file appears."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


OPTIONS: list[tuple[Options, type[UserError], str]] = [
    ({"sparsity": 1.0}, OptionError, r"sparsity=1.0: expected the share of channels to remove, in \[0, 1\)"),
    ({"sparsity": -0.1}, OptionError, "sparsity=-0.1: expected"),
    ({"sparsity": float("nan")}, OptionError, "sparsity=nan: expected"),
    ({"sparsity": "half"}, OptionError, "sparsity=half: expected"),
    ({"sparsity": 0.5, "budget": Budget(macs=0.5)}, OptionError, "give sparsity= or budget=, not both"),
    ({"budget": 0.5}, OptionError, r"budget=0.5: expected a graphprune.Budget, e.g. Budget\(params=0.5\)"),
    ({"criterion": "elastic"}, OptionError, "criterion 'elastic' is unknown; known are bn-gamma, elasticity, "),
    ({"criterion": 3}, OptionError, "criterion: expected a name or a callable, got int"),
    ({"schedule": "halve"}, OptionError, "schedule 'halve' is unknown; known are geometric, halving, linear, one-shot"),
    ({"accumulate": "mean"}, OptionError, "accumulate='mean' is unknown; known are signed, absolute, squared"),
    ({"granularity": "filter"}, OptionError, "granularity='filter' is unknown; known are channel, weight, mixed"),
    ({"samples": 0}, OptionError, "samples=0: expected a whole number of at least 1"),
    ({"samples": 2.5}, OptionError, "samples=2.5: expected a whole number"),
    ({"sparsity": "0.5"}, OptionError, r"sparsity=0.5: .* of channels to remove, in \[0, 1\); got a str"),
    ({"resurrect": "yes", "granularity": "weight"}, OptionError, "resurrect='yes': expected True or False"),
    (
        {"criterion": lambda weights: weights["conv"]},
        OptionError,
        r"fails for group g\d+ \(.+\): KeyError: 'conv'\nIt was given the weights '",
    ),
    ({"verify": "no"}, OptionError, "verify='no': expected True or False"),
    ({"strict": 2}, OptionError, "strict=2: expected True or False"),
    ({"runner": 3}, OptionError, "runner: expected a graphprune.runner.Runner, got int"),
    ({"attention": "head_dim", "granularity": "weight"}, OptionError, "attention='head_dim' is about channels"),
    ({"min_channels": 0}, OptionError, "min_channels=0: expected a whole number of at least 1"),
    ({"min_channels": "secure"}, OptionError, "min_channels='secure': expected a number, a function, or 'safe'"),
    ({"align": 0}, OptionError, "align=0: expected a whole number of at least 1"),
    ({"align": 1.5}, OptionError, "align=1.5: expected a whole number"),
    ({"protect": "conv"}, OptionError, r"protect='conv': expected a sequence of patterns, e.g. protect=\('conv',\)"),
    ({"protect": ["convs"]}, OptionError, "'convs' matches no module, parameter or buffer; did you mean 'conv'"),
    ({"sparsity": 0.0}, NothingToPruneError, "the budget channels=0.0 would remove nothing of Chain; ask for more"),
    ({"budget": Budget(channels=0.01)}, NothingToPruneError, "would remove nothing of Chain"),
    ({"protect": ["conv"]}, NothingToPruneError, "no channels that can be removed(.|\n)*protected by 'conv'"),
    ({"sparsity": 0.9, "min_channels": 3}, BudgetError, r"min_channels=3, align=1 keep g0 \(conv.weight\): 3 of 6"),
    ({"sparsity": 0.9, "align": 4}, BudgetError, r"align=4 keep g0 \(conv.weight\): 4 of 6(.|\n)*Lower the budget"),
    ({"budget": Budget(params=0.999)}, BudgetError, r"params: at most \d+ asked for, \d+ are left at the least"),
    ({"data": []}, InputError, "data gives no batches"),
    ({"data": 7}, InputError, "data: expected an iterable of batches .* got int"),
    ({"data": [images()]}, InputError, r"data: expected batches \(inputs, target\), got Tensor"),
    ({"data": [(torch.randn(4, 5, 6, 6), torch.ones(4).long())]}, InputError, r"\(4, 5, 6, 6\)(.|\n)*like the example"),
    ({"data": [(images() * torch.nan, torch.zeros(4).long())]}, LossError, "is nan; check the data for NaN or inf"),
    ({"data": [(images(), torch.tensor([0, 1, 2, 3]))]}, LossError, "target 3 is not a class(.|\n)*Check the labels"),
    ({"loss": lambda output, target: output.sum() * torch.inf}, LossError, "inf; check the data"),
    ({"loss": lambda output, target: output}, LossError, r"must be a scalar tensor.*shape \(2, 3\)"),
    ({"loss": lambda output, target: 1 / 0}, LossError, "cannot be computed(.|\n)*ZeroDivisionError"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS, ids=range(len(OPTIONS)))
def test_options_and_data(options: Options, error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        compile_(**options)


BUDGETS: list[tuple[Options, str]] = [
    ({}, "the budget is empty; give channels=, params=, weights=, macs=, latency= or latency_ms="),
    ({"channels": 1.0}, r"budget channels=1.0: expected the share to remove, in \[0, 1\)"),
    ({"params": -0.5}, "budget params=-0.5: expected"),
    ({"macs": float("nan")}, "budget macs=nan: expected"),
    ({"macs": "half"}, "budget macs=half: expected"),
    ({"macs": True}, "budget macs=True: expected the share .*; got a bool"),
    ({"latency_ms": "5"}, "budget latency_ms=5: expected milliseconds above 0; got a str"),
    ({"latency_ms": [5]}, "got a list"),
    ({"latency_ms": True}, "got a bool"),
    ({"latency_ms": float("inf")}, "budget latency_ms=inf: expected milliseconds above 0$"),
    ({"latency_ms": 0}, "budget latency_ms=0: expected milliseconds above 0$"),
]


@pytest.mark.parametrize(("options", "message"), BUDGETS)
def test_budgets(options: Options, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Budget(**options)


def test_half_of_the_channels_where_nothing_is_said() -> None:
    assert budget_of(None, None) == Budget(channels=0.5)


class ByValue(nn.Module):
    """Control flow on values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            x = x * 2
        out: Tensor = self.fc(x)
        return out


class Parts(Chain):
    """Gives a dictionary."""

    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


class Named(nn.Module):
    """A part with a name that graph modules have a use for."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.meta(x)
        return out


class Sparse(nn.Module):
    """Sums over the neighbours in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("neighbours", torch.eye(5).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.sparse.mm(self.get_buffer("neighbours"), self.first(x)))
        return out


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


MODELS: list[tuple[Callable[[], Any], Any, type[UserError], str]] = [
    (
        ByValue,
        torch.rand(2, 5),
        CaptureError,
        "cannot be captured.\n  torch.fx: .+\n  .+ sizes: .+\n  torch.export: .+\nMove",
    ),
    (Parts, images(), LossError, r"output is dict of 1 tensors, not a tensor; pass loss=lambda output, target"),
    (Sparse, torch.randn(5, 4), InputError, r"node %\w+ .* works on a sparse tensor, which analysis cannot follow"),
    (Lazy, torch.randn(2, 5), InputError, "parameter 'fc.weight' has no shape yet; run the model once"),
    (nn.ReLU, torch.randn(2, 5), InputError, "ReLU has no parameters; there is nothing to prune"),
    (lambda: 3, torch.randn(2, 5), InputError, "expected an nn.Module, got int"),
    (Chain, "picture", InputError, "the example input holds no tensor, it is of type str; give a tensor, a tuple of"),
    (Named, torch.randn(2, 5), InputError, "Named has a part named 'meta', a name that torch.fx.GraphModule needs"),
    (Chain, torch.randn(2, 5, 6, 6), InputError, "Chain fails on its example input: RuntimeError: Given groups=1"),
    (Chain, torch.randn(2, 5), InputError, "Chain fails on its example input: RuntimeError: Expected 3D"),
    (lambda: nn.Linear(5, 3), torch.randn(2, 5), NothingToPruneError, "no channels that can be removed(.|\n)*leaves"),
]


@pytest.mark.parametrize(("factory", "example", "error", "message"), MODELS, ids=range(len(MODELS)))
def test_models_and_examples(factory: Callable[[], Any], example: Any, error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        compile_(factory(), example)


@pytest.mark.filterwarnings("ignore")
def test_torchscript() -> None:
    with pytest.raises(InputError, match="TorchScript cannot be pruned, its code is no Python any more; give the"):
        compile_(torch.jit.trace(nn.Linear(5, CLASSES), torch.randn(2, 5)), torch.randn(2, 5))


@pytest.mark.parametrize("example", [{"y": torch.randn(2, 5)}, (torch.randn(2, 5), torch.randn(2, 5))])
def test_examples_with_other_arguments_than_forward(example: Any) -> None:
    with pytest.raises(UserError, match="Mlp"):
        compile_(Mlp(), example)


def test_every_error_of_the_package_is_of_one_of_two_families() -> None:
    for error in (OptionError, CaptureError, InputError, LossError, BudgetError, NothingToPruneError):
        assert issubclass(error, UserError) and not issubclass(error, InternalError)
    assert issubclass(UserError, GraphPruneError) and issubclass(InternalError, GraphPruneError)


def test_two_entries_under_one_name() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    with pytest.raises(InternalError, match="number 'one' is registered already"):
        registry.register("one")(2)
    assert registry.names() == ["one"] and registry["one"] == 1


def test_a_refused_call_can_be_repeated_with_better_input() -> None:
    model = Residual()
    with pytest.raises(UserError):
        compile_(model, data=[])
    assert compile_(model, data=batch()).report.achieved["channels"] == 0.5


def test_lack_of_memory_is_not_blamed_on_the_user() -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        compile_(loss=lambda output, target: torch.empty(2**50).mean(), data=batch(), samples=4)
