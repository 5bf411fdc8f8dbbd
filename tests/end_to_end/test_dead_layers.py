"""Models with layers of which nobody uses the result: they count for nothing, and compile like any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import graphprune
from graphprune.costs.measures import Measure
from tests.passes.test_drop_dead_nodes import INPUTS, ByLength, Tied, large
from tests.small_models import CLASSES


@pytest.mark.parametrize("granularity", ["channel", "weight", "mixed"])
@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_dead_layers_do_not_count_for_the_sparsity(granularity: str, sparsity: float) -> None:
    report = graphprune.compile(
        large(), INPUTS, sparsity=sparsity, granularity=granularity, schedule="one-shot",
        data=[(INPUTS, torch.arange(6) % CLASSES)], samples=6,
    ).report  # fmt: skip
    assert report.costs["params"][0] == 75 and report.costs["channels"][0] == 8 and report.costs["weights"][0] == 64
    assert report.costs["macs"][0] == 64, "of one sample"
    measure: Measure = "channels" if granularity == "channel" else "weights"
    assert report.achieved[measure] == sparsity == report.rounds[-1].requested[measure]
    assert report.dropped == ("aux.weight", "aux.bias", "last.weight", "last.bias")
    assert "dropped: aux.weight is not read in evaluation mode" in str(report)


def test_a_dead_layer_that_is_protected_counts() -> None:
    compiled = graphprune.compile(
        large(), INPUTS, sparsity=0.5, criterion="l1-norm", schedule="one-shot", protect=("aux",)
    )
    assert compiled.report.costs["params"][0] == 75 + 8 * 64 + 64
    assert compiled.module.get_parameter("aux.weight").shape == (64, 4)
    assert compiled.report.dropped == ("last.weight", "last.bias")


@pytest.mark.parametrize("factory", [large, ByLength, Tied])
def test_plans_and_artifacts_fit_a_fresh_model(factory: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = factory()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compiled = graphprune.compile(model, INPUTS, sparsity=0.4, criterion="l1-norm")
    fresh = factory()
    fresh.load_state_dict(tensors)
    compiled.module.eval()
    expected = compiled.module(INPUTS)
    # roundings of float32, where ONNX sums in another order
    torch.testing.assert_close(compiled.plan.apply(fresh).eval()(INPUTS), expected)
    saved = compiled.save(tmp_path / "saved")
    torch.testing.assert_close(graphprune.load(saved)(INPUTS), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(graphprune.load(saved, factory()).eval()(INPUTS), expected)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


def test_what_is_left_trains() -> None:
    torch.manual_seed(3)
    pruner = graphprune.Pruner(ByLength(), INPUTS, sparsity=0.5, criterion="l1-norm", schedule="one-shot")
    optimizer = torch.optim.SGD(pruner.module.parameters(), lr=0.1, momentum=0.9)
    target, losses = torch.arange(6) % 3, []
    for step in range(30):
        if step == 5:
            pruner.step(optimizer=optimizer)
        loss = functional.cross_entropy(pruner.module.train()(INPUTS), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in pruner.module.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[6] < 2
    assert pruner.finish().verify().relative_error <= 1e-5


def test_a_tied_parameter_that_is_left_is_not_reported_as_dropped() -> None:
    model = Tied()
    compiled = graphprune.compile(model, INPUTS, sparsity=0.5, criterion="l1-norm", schedule="one-shot")
    assert compiled.report.dropped == ("dead.bias", "end.bias")
    module: Any = compiled.module
    assert module.fc.weight is module.mid.weight and module.fc.weight.shape == (4, 4)
    applied: Any = compiled.plan.apply(copy.deepcopy(model))
    assert applied.fc.weight is applied.mid.weight
    assert torch.equal(applied(INPUTS), compiled.module(INPUTS)), "the same ops on the same numbers"
