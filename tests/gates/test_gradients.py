"""What the gradient of the loss in a gate is: the slope of the loss as the channel is scaled in the user's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.gates.insertion import GatedModule
from graphprune.program.program import Program
from tests.ops.case import net
from tests.passes.test_insert_gates import MODELS, with_gates
from tests.small_models import CLASSES, Residual, Transformer, analysed, group_of, images, randomised

STEP = 1e-5
RTOL = 1e-6
"""Central differences in float64 are off by STEP² times third derivatives, and roundings over STEP: some 1e-10."""

Scaled = tuple[str, int]
"""A layer whose outputs are a group's pre-activations, and at which of them the group begins."""

PLACES: dict[str, dict[str, tuple[Scaled, ...]]] = {
    "chain": {"conv.weight": (("norm", 0),)},
    "residual": {
        "stem.weight": (("stem_norm", 0), ("norm2", 0)), "conv1.weight": (("norm1", 0),),
        "conv3.weight": (("norm3", 0), ("short_norm", 0)),
    },
    "inverted": {
        "stem.weight": (("stem_norm", 0), ("project_norm", 0)), "expand.weight": (("depth_norm", 0),),
        "squeeze.weight": (("squeeze", 0),),
    },
    "dense": {
        "stem.weight": (("norm1", 0), ("norm2", 0), ("norm3", 0)), "conv1.weight": (("norm2", 4), ("norm3", 4)),
        "conv2.weight": (("norm3", 7),),
    },
    "mlp": {"fc1.weight": (("fc1", 0),), "fc2.weight": (("fc2", 0),)},
    "transformer": {"embed.weight": (("norm1", 0), ("norm2", 0), ("norm3", 0)), "fc1.weight": (("fc1", 0),)},
}  # fmt: skip

BEFORE: dict[str, tuple[Scaled, ...]] = {
    "stem.weight": (("stem", 0), ("conv2", 0)), "conv1.weight": (("conv1", 0),),
    "conv3.weight": (("conv3", 0), ("short", 0)),
}  # fmt: skip
"""Of the residual network, before its normalisations."""


@contextmanager
def scaled(model: nn.Module, places: tuple[Scaled, ...], channel: int, factor: float) -> Iterator[None]:
    """A channel of the user's own model scaled: weights and biases of what gives its pre-activations."""
    rows = [
        parameter.detach()[first + channel]
        for layer, first in places
        for parameter in model.get_submodule(layer).parameters()
    ]
    before = [row.clone() for row in rows]
    for row in rows:
        row.mul_(factor)
    yield
    for row, value in zip(rows, before, strict=True):
        row.copy_(value)


def loss_of(model: nn.Module, inputs: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(model(inputs), target))


def gradient_in_gates(program: Program, inputs: Tensor, target: Tensor) -> Tensor:
    """Of the mean loss, in all gates but that of what is frozen."""
    gated = program[GatedModule]
    size = (len(inputs), gated.channels + 1) if gated.per_sample else (gated.channels + 1,)
    gate = torch.ones(size, dtype=torch.float64, requires_grad=True)
    gated.set_gate(gate)
    loss = functional.cross_entropy(gated.module.eval()(inputs), target)
    return torch.autograd.grad(loss, gate)[0][..., :-1]


def check_gradient(model: nn.Module, inputs: Tensor, places: dict[str, tuple[Scaled, ...]], **options: bool) -> None:
    model, inputs, target = randomised(model).double().eval(), inputs.double(), torch.arange(len(inputs)) % CLASSES
    program, dependencies = analysed(model, inputs)
    found = gradient_in_gates(with_gates(program, **options), inputs, target)
    for name, layers in places.items():
        group = group_of(dependencies, name)
        for channel in range(group.channels):
            losses = []
            for factor in (1 + STEP, 1 - STEP):
                with scaled(model, layers, channel, factor):
                    losses.append(loss_of(model, inputs, target))
            slope = (losses[0] - losses[1]) / (2 * STEP)
            at = f"{name}[{channel}]"
            assert float(found[group.start + channel]) == pytest.approx(slope, rel=RTOL, abs=1e-9), at
    assert bool((found != 0).any())


@pytest.mark.parametrize("name", PLACES)
def test_the_gradient_is_the_slope_of_the_loss_in_the_scale_of_a_channel(name: str) -> None:
    factory, shape = MODELS[name]
    check_gradient(factory(), torch.randn(6, *shape), PLACES[name])


def test_before_normalisation_it_is_that_of_what_is_normalised() -> None:
    check_gradient(Residual(), images(6), BEFORE, before_normalisation=True)


def test_the_gradient_of_a_head_is_that_of_the_columns_that_read_it() -> None:
    model, inputs = randomised(Transformer()).double(), torch.randn(6, 5, 4).double()
    target = torch.arange(6) % CLASSES
    program, dependencies = analysed(model, inputs)
    group = group_of(dependencies, "qkv.weight")
    found = gradient_in_gates(with_gates(program), inputs, target)[group.start : group.stop]
    assert len(found) == 2
    for head in range(2):
        losses = []
        for factor in (1 + STEP, 1 - STEP):
            columns = model.proj.weight.detach()[:, 4 * head : 4 * head + 4]
            columns.mul_(factor)
            losses.append(loss_of(model, inputs, target))
            columns.div_(factor)
        assert float(found[head]) == pytest.approx((losses[0] - losses[1]) / (2 * STEP), rel=RTOL, abs=1e-9)


def test_the_gradient_of_a_recurrent_unit_is_that_of_all_its_steps() -> None:
    model: Any = net(
        lambda self, x: self.head(self.cell(x)[0][:, -1]), cell=nn.RNN(5, 4, batch_first=True),
        head=nn.Linear(4, CLASSES),
    ).double()  # fmt: skip
    inputs, target = torch.randn(6, 3, 5).double(), torch.arange(6) % CLASSES
    program, _ = analysed(model, inputs)
    found = gradient_in_gates(with_gates(program), inputs, target)
    gate, hidden = torch.ones(4, dtype=torch.float64, requires_grad=True), torch.zeros(6, 4).double()
    for step in range(3):
        products = inputs[:, step] @ model.cell.weight_ih_l0.t() + hidden @ model.cell.weight_hh_l0.t()
        hidden = gate * torch.tanh(products + model.cell.bias_ih_l0 + model.cell.bias_hh_l0)
    loss = functional.cross_entropy(model.head(hidden), target)
    # the same sums in float64, in another order
    torch.testing.assert_close(found, torch.autograd.grad(loss, gate)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_gates_of_each_sample_have_the_gradient_of_that_sample(name: str) -> None:
    factory, shape = MODELS[name]
    inputs, target = torch.randn(3, *shape).double(), torch.arange(3)
    program, dependencies = analysed(randomised(factory()).double(), torch.randn(2, *shape).double())
    together = gradient_in_gates(with_gates(program, per_sample=True), inputs, target)
    assert together.shape == (3, dependencies.channels)
    plain = with_gates(program)
    for sample in range(3):
        alone = gradient_in_gates(plain, inputs[sample : sample + 1], target[sample : sample + 1])
        # the loss is a mean over three samples; the same sums in float64, in another order
        torch.testing.assert_close(3 * together[sample], alone, rtol=1e-9, atol=1e-12)
