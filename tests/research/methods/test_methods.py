"""What holds for every method, and the baselines that need no test file of their own."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from graphprune.errors import BudgetError, OptionError
from graphprune.research.methods import (
    METHODS,
    Dense,
    EfficientConvNets,
    GateDecorators,
    ImpGlobal,
    Iterated,
    Method,
    RandomNodes,
    RandomWeights,
)
from graphprune.research.methods.masks import layer_weights
from graphprune.research.training import Recipe, Trainer, train
from tests.research.methods.small import TwoBlocks, few_digits, lenet

TARGETS: dict[str, float] = {"node sparsity": 0.5, "weight sparsity": 0.5, "lambda": 1e-3, "nothing": 0.0}


def _short(name: str) -> Method:
    """The method with so few events that two epochs are enough."""
    method = METHODS[name]
    if isinstance(method, Iterated):
        quick = {"schedule": "one-shot", "every": min(method.every, 1), "samples": 64}
        return replace(method, **quick)  # type: ignore[arg-type]
    return ImpGlobal(0, 1, "one-shot") if name == "imp-global" else method


RUNS = {name: (_short(name), 2) for name in METHODS.names()}


def test_all_methods_are_there() -> None:
    assert METHODS.names() == [
        "cnip-it", "cnip-it during", "dense", "efficient-conv-nets", "force", "gate-decorators", "grasp",
        "group-hoyer-square", "hoyer-square", "imp-global", "l0", "random-nodes", "random-weights", "snap", "snap-it",
        "snap-it during", "snip", "snip-it", "snip-it during", "synflow",
    ]  # fmt: skip


@pytest.mark.parametrize("network", [lenet, TwoBlocks])
@pytest.mark.parametrize("name", METHODS.names())
def test_a_short_run(name: str, network: Any) -> None:
    method, epochs = RUNS[name]
    assert isinstance(method, Method)
    model = network()
    before = copy.deepcopy(model.state_dict())
    result = method.train(model, few_digits(), Recipe(epochs, batch_size=128), TARGETS[method.target], seed=0)
    # the caller's network is not touched
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert list(result.module.state_dict()) == list(before)
    assert len(result.epochs) in (epochs, 2 * epochs) and result.seconds > 0
    assert [epoch.index for epoch in result.epochs] == list(range(len(result.epochs)))
    assert (result.masks is None) == method.structured
    if method.target == "node sparsity":
        smaller = sum(p.numel() for p in result.module.parameters()) < sum(p.numel() for p in model.parameters())
        assert smaller and result.compiled is not None
        assert result.node_sparsity == pytest.approx(0.5, abs=0.05)
        result.compiled.verify()
    if method.target == "weight sparsity":
        assert result.weight_sparsity == pytest.approx(0.5, abs=1e-3)
    assert result.module(few_digits().test.inputs[:3]).shape == (3, 10)


def test_dense_training_is_training() -> None:
    model = lenet()
    result = Dense().train(model, few_digits(), Recipe(1, batch_size=64), 0.0, seed=4)
    told = train(model, few_digits().train, Recipe(1, batch_size=64), seed=4)
    assert tuple(epoch.loss for epoch in result.epochs) == told.epoch_losses
    assert (result.weight_sparsity, result.node_sparsity, result.compiled) == (0.0, 0.0, None)


def test_filters_of_the_smallest_l1_norm_go_from_each_layer() -> None:
    still = Recipe(2, batch_size=64, learning_rate=1e-12, weight_decay=0.0)
    model = lenet()
    with torch.no_grad():
        for weight in layer_weights(model).values():
            weight.uniform_(-1, 1)
    result = EfficientConvNets().train(model, few_digits(), still, 0.5, seed=0)
    assert result.compiled is not None
    kept = result.compiled.plan.kept
    for name, rows in (("features.conv1", 6), ("features.conv2", 16), ("features.conv3", 120), ("classifier.fc1", 84)):
        norms = [sum(abs(v) for v in row.flatten().tolist()) for row in model.get_parameter(f"{name}.weight").detach()]
        largest = sorted(range(rows), key=lambda row: norms[row])[rows // 2 :]
        assert kept[f"{name}.weight", 0].tolist() == sorted(largest)


def test_it_prunes_at_seven_eighths_and_the_optimizer_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    epoch = Trainer.epoch

    def watched(self: Trainer) -> Any:
        sizes.append(sum(p.numel() for p in self.model.parameters()))
        done = epoch(self)
        assert all(len(self.optimizer.state[p]) == 3 for p in self.model.parameters())
        return done

    monkeypatch.setattr(Trainer, "epoch", watched)
    EfficientConvNets().train(lenet(), few_digits(), Recipe(8, batch_size=128), 0.5, seed=0)
    assert len(set(sizes[:7])) == 1 and sizes[7] < sizes[6]


def test_random_nodes_go_from_each_layer_by_the_seed() -> None:
    plans = []
    for seed in (0, 0, 1):
        result = RandomNodes().train(lenet(), few_digits(), Recipe(0), 0.5, seed)
        assert result.compiled is not None
        plans.append(result.compiled.plan.kept)
        widths = [
            len(plans[-1][f"{name}.weight", 0]) for name in ("features.conv1", "features.conv2", "classifier.fc1")
        ]
        assert widths == [3, 8, 42]
    key = "features.conv3.weight", 0
    assert torch.equal(plans[0][key], plans[1][key]) and not torch.equal(plans[0][key], plans[2][key])


def test_random_weights_are_drawn_uniformly_by_the_seed() -> None:
    results = [RandomWeights().train(lenet(), few_digits(), Recipe(0), 0.9, seed) for seed in (0, 0, 1)]
    masks = [result.masks for result in results]
    assert all(result.weight_sparsity == pytest.approx(0.9, abs=1e-5) for result in results)
    name = "classifier.fc1.weight"
    first, again, other = (mask[name] for mask in masks if mask is not None)
    assert torch.equal(first, again) and not torch.equal(first, other)
    # Five standard deviations of a share of 0.1 among 90,720.
    assert float(first.double().mean()) == pytest.approx(0.1, abs=5 * (0.09 / 90_720) ** 0.5)


@pytest.mark.parametrize("method", [EfficientConvNets(), GateDecorators()])
def test_a_share_that_is_not_there_is_told_before_training(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(self: Trainer) -> Any:
        raise AssertionError("trained before the share was looked at")

    monkeypatch.setattr(Trainer, "epoch", trained)
    with pytest.raises(BudgetError):  # of each of the five layers one node stays
        method.train(lenet(), few_digits(), Recipe(2, batch_size=128), 0.99, seed=0)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
@pytest.mark.parametrize("method", [EfficientConvNets(), RandomNodes(), RandomWeights(), ImpGlobal()])
def test_a_share_that_cannot_be(method: Method, target: float) -> None:
    with pytest.raises(OptionError, match="above 0 and below 1"):
        method.train(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), few_digits(), Recipe(1), target, seed=0)
