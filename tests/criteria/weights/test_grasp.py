"""GraSP of weights against an explicit Hessian, and against what removing weights does to the gradient flow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphprune.costs.pool import pool_of
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.weights import WEIGHT_CRITERIA, Grasp
from graphprune.errors import LossError, OptionError
from graphprune.program.program import Program
from tests.costs.test_pool import Attention, Recurrent
from tests.scoring import Batches, batches_like, numeric_slopes, prepared, sensitivity, with_dead_weights
from tests.small_models import CLASSES, Inverted, Mlp, Residual, Transformer, images


def explicit(program: Program, batches: Batches, temperature: float) -> dict[str, Tensor]:
    """H g over the live weights, the Hessian written out."""
    pool = pool_of(program)
    sizes = [weight.numel() for weight in pool.values()]
    inputs, target = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        weights = {name: part.view_as(weight) for (name, weight), part in zip(pool.items(), parts, strict=True)}
        out: Tensor = functional_call(program.module, weights, (inputs,))
        return functional.cross_entropy(out / temperature, target)

    point = torch.cat([weight.detach().flatten() for weight in pool.values()]).requires_grad_()
    gradient = torch.autograd.grad(loss(point), point)[0]
    live = torch.cat(
        [program.history.masks.get(name, torch.ones_like(weight)).flatten() for name, weight in pool.items()]
    )
    product = hessian(loss, point.detach()) @ (gradient * live)
    return {name: part.view_as(pool[name]) for name, part in zip(pool, product.split(sizes), strict=True)}


@pytest.mark.parametrize("dormant", [None, False, True])
@pytest.mark.parametrize("temperature", [200.0, 1.0])
def test_explicit_hessian(temperature: float, dormant: bool | None) -> None:
    program = prepared(Mlp((4, 3), torch.tanh), torch.randn(2, 5))
    before = {name: weight.detach().clone() for name, weight in pool_of(program).items()}
    if dormant is not None:
        program = with_dead_weights(program, dormant=dormant)
    batches = batches_like(torch.randn(1, 5).double(), 4, 3)
    found = Grasp(temperature)(program, sensitivity(batches, accumulate="absolute"))
    for name, product in explicit(program, batches, temperature).items():
        value = before[name] if dormant else pool_of(program)[name].detach()
        # of the order 1e-9 at T = 200
        torch.testing.assert_close(found.importance[name], value * product, rtol=1e-8, atol=1e-20)
    assert found.samples == 7


@pytest.mark.parametrize(
    ("factory", "example"),
    [(Residual, images()), (Inverted, images()), (Transformer, torch.randn(2, 5, 4))],
)
def test_removing_a_little_of_a_weight_changes_the_gradient_flow(
    factory: Callable[[], nn.Module], example: Tensor
) -> None:
    """|g|^2 changes by 2 S t when t w is taken off w; importance is -S."""
    program = prepared(factory(), example)
    batches = batches_like(example.double(), 3, 2)
    inputs, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    pool = pool_of(program)

    def flow() -> float:
        loss = functional.cross_entropy(program.module(inputs) / 10, target)
        return sum(float(each.square().sum()) for each in torch.autograd.grad(loss, list(pool.values())))

    found = Grasp(10.0)(program, sensitivity(batches))
    everything = torch.cat([importance.flatten() for importance in found.importance.values()])
    assert min(float((everything > 0).sum()), float((everything < 0).sum())) > 20
    for name, weight in pool.items():
        indices = torch.randperm(weight.numel())[:3].tolist()
        slopes = numeric_slopes(weight, flow, indices, step=1e-5)
        grown = -weight.detach().view(-1)[indices] * slopes  # change of the flow per share of the weight that goes
        importance = found.importance[name].view(-1)[indices]
        torch.testing.assert_close(-2 * importance, grown, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("factory", [lambda: Attention(cross=False), lambda: Attention(cross=True), Recurrent])
def test_layers_whose_usual_kernels_have_no_second_derivative(factory: Callable[[], nn.Module]) -> None:
    example = torch.randn(2, 5, 4)
    program = prepared(factory(), example)
    (batch,) = batches_like(example.double(), 3)
    with sdpa_kernel(SDPBackend.MATH):
        expected = explicit(program, [batch], 200.0)
    found = WEIGHT_CRITERIA["grasp"](program, sensitivity([batch]))
    for name, product in expected.items():
        torch.testing.assert_close(
            found.importance[name], pool_of(program)[name].detach() * product, rtol=1e-7, atol=1e-16
        )


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    program = prepared(nn.Sequential(nn.Linear(5, CLASSES)), torch.randn(2, 5))
    found = WEIGHT_CRITERIA["grasp"](
        program, sensitivity(batches_like(torch.randn(1, 5).double(), 2), loss=lambda out, _: out.sum())
    )
    assert bool((found.importance["0.weight"] == 0).all())


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(x))
        return {"logits": self.head(hidden), "hidden": hidden}


def test_outputs_that_are_no_logits_need_a_temperature_of_one() -> None:
    program = prepared(Pair(), torch.randn(2, 5))
    batches = batches_like(torch.randn(1, 5).double(), 2)
    options = sensitivity(batches, loss=lambda out, target: cross_entropy(out["logits"], target))
    with pytest.raises(LossError, match=r"its output is a dict; give a model .*Grasp\(temperature=1\)"):
        WEIGHT_CRITERIA["grasp"](program, options)
    assert float(Grasp(1.0)(program, options).importance["body.weight"].abs().max()) > 0


class Once(torch.autograd.Function):
    """An op with a first derivative only."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()


@pytest.mark.parametrize(
    "loss",
    [lambda out, target: cross_entropy(Once.apply(out), target), functional.multi_margin_loss],
)
def test_an_op_without_second_derivative(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    program = prepared(Mlp(), torch.randn(2, 5))
    options = sensitivity(batches_like(torch.randn(1, 5).double(), 2), loss=loss)
    with pytest.raises(LossError, match=r"grasp needs second derivatives, .*: an op in it can be differentiated only"):
        WEIGHT_CRITERIA["grasp"](program, options)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_that_make_no_sense(temperature: float) -> None:
    with pytest.raises(OptionError, match="expected a number greater than 0"):
        Grasp(temperature)
