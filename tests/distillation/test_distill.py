"""A loss for training loops, and the values inside that it can compare."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Compiled
from graphprune.distillation.soft_targets import divergence
from graphprune.errors import OptionError
from tests.repair.networks import FITTED, IMAGE
from tests.repair.test_refit import data, pruned
from tests.small_models import randomised


def network(name: str = "residual") -> tuple[nn.Module, Compiled]:
    torch.manual_seed(0)
    model = FITTED[name]()
    return model, pruned(model)


def test_it_is_the_divergence_of_the_outputs() -> None:
    model, compiled = network()
    inputs = data()[0][0]
    found = graphprune.distill(model, compiled)(inputs)
    with torch.no_grad():
        expected = divergence(compiled.module(inputs), model(inputs), 3.0)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(parameter.grad is not None for parameter in compiled.module.parameters())


def test_modes_and_statistics() -> None:
    """The dense model is asked in evaluation mode; the compact one trains, with its batch norms."""
    model, compiled = network()
    model.train()
    compiled.module.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    compact = {name: buffer.clone() for name, buffer in compiled.module.named_buffers()}
    graphprune.distill(model, compiled)(data()[0][0])
    assert model.training and compiled.module.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not all(torch.equal(buffer, compact[name]) for name, buffer in compiled.module.named_buffers())


@pytest.mark.parametrize("name", ["residual", "plain", "sums behind linear layers"])
def test_values_inside_are_compared_at_the_channels_that_are_left(name: str) -> None:
    """A network whose removed channels are dead already differs nowhere inside."""
    torch.manual_seed(0)
    model: Any = randomised(FITTED[name]()).eval()
    compiled = pruned(model)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter_name, parameter in masked.named_parameters():
            for (owner, dim), kept in compiled.plan.kept.items():
                if owner == parameter_name:
                    removed = torch.ones(parameter.shape[dim], dtype=torch.bool)
                    removed[kept] = False
                    parameter[(slice(None),) * dim + (removed,)] = 0
    inputs = data()[0][0]
    apart = graphprune.distill(model, compiled, temperature=None, features=1.0)(inputs)
    outputs = graphprune.distill(model, compiled, temperature=None)(inputs)
    assert float(apart.detach()) > float(outputs.detach()) > 0
    if name != "sums behind linear layers":  # a layer norm of a masked program counts the kept channels only
        again = graphprune.compile(
            masked, torch.randn(2, *IMAGE), sparsity=0.4, criterion="random", schedule="one-shot"
        )
        inside = graphprune.distill(masked, again, temperature=None, features=1.0)(inputs)
        torch.testing.assert_close(inside, torch.zeros(()), rtol=0, atol=1e-8)


def test_features_have_gradients() -> None:
    model, compiled = network("plain")
    found = graphprune.distill(model, compiled, temperature=None, features=2.0)(data()[0][0])
    found.backward()
    assert all(parameter.grad is not None for parameter in compiled.module.parameters())


def test_any_two_networks_with_the_same_inputs() -> None:
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    inputs = torch.randn(5, 4)
    expected = divergence(student(inputs), teacher(inputs), 2.0)
    torch.testing.assert_close(graphprune.distill(teacher, student, temperature=2.0)(inputs), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ({"temperature": "warm"}, "temperature='warm'"),
        ({"features": -1.0}, "features=-1.0: expected a number above 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    model, compiled = network()
    with pytest.raises(OptionError, match=message):
        graphprune.distill(model, compiled, **options)


def test_features_need_the_model_that_was_pruned() -> None:
    model, compiled = network()
    with pytest.raises(OptionError, match=r"features= needs the result of graphprune\.compile"):
        graphprune.distill(model, compiled.module, features=1.0)
    with pytest.raises(OptionError, match="dense has another"):
        graphprune.distill(FITTED["residual"](), compiled, features=1.0)


def test_what_is_no_network() -> None:
    model, compiled = network()
    nothing: Any = None
    with pytest.raises(OptionError, match="dense=None: give the model that was pruned, or another teacher"):
        graphprune.distill(nothing, compiled)
    with pytest.raises(OptionError, match=r"compact=None: give what graphprune\.compile returned"):
        graphprune.distill(model, nothing)


def test_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(self.a(x).relu())
            return result

    model = Named()
    compiled = graphprune.compile(model, {"x": torch.randn(2, 4)}, sparsity=0.5, criterion="random")
    inputs = torch.randn(6, 4)
    for features in (0.0, 1.0):
        distillation = graphprune.distill(model, compiled, features=features)
        torch.testing.assert_close(distillation({"x": inputs}), distillation((inputs,)))
