"""What every criterion for weights keeps to, and those that need no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphprune.costs.pool import pool_of
from graphprune.criteria.weights import WEIGHT_CRITERIA, weight_scores_of
from graphprune.errors import InputError
from graphprune.program.program import Program
from tests.costs.test_pool import Attention, Grouped, Recurrent
from tests.scoring import batches_like, leaving_no_trace, prepared, sensitivity, with_dead_weights
from tests.small_models import Dense, Inverted, Mlp, Residual, Transformer, analysed, images

TOKENS = torch.randn(2, 5, 4)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, images()), "inverted": (Inverted, images()), "dense": (Dense, images()),
    "transformer": (Transformer, TOKENS), "attention": (lambda: Attention(cross=True), TOKENS),
    "recurrent": (Recurrent, TOKENS), "grouped": (Grouped, TOKENS),
}  # fmt: skip
NEEDS_DATA = ["elasticity", "force", "grasp", "taylor"]


def test_names() -> None:
    assert set(WEIGHT_CRITERIA.names()) >= {*NEEDS_DATA, "magnitude", "random", "synflow"}


@pytest.mark.parametrize("name", WEIGHT_CRITERIA.names())
@pytest.mark.parametrize("model", MODELS)
def test_one_finite_number_for_each_weight_and_no_trace(name: str, model: str) -> None:
    factory, example = MODELS[model]
    program = with_dead_weights(analysed(factory(), example)[0])  # in training mode, as a pruner may hold it
    program.module.train()
    options = sensitivity(batches_like(example, 3, 2))
    with leaving_no_trace(program):
        found = weight_scores_of(WEIGHT_CRITERIA[name], program, options)
    for key, weight in pool_of(program).items():
        assert found.importance[key].dtype == torch.float64
        assert not found.importance[key].requires_grad
        assert found.importance[key].device == weight.device
    assert any(len(scores.unique()) > 1 for scores in found.importance.values())


@pytest.mark.parametrize("name", NEEDS_DATA)
def test_data_that_is_too_small_is_used_once(name: str) -> None:
    program = prepared(Mlp((4, 3), torch.tanh), torch.randn(2, 5))
    batches = batches_like(torch.randn(1, 5).double(), 2, 1)
    few = WEIGHT_CRITERIA[name](program, sensitivity(batches, samples=100))
    exact = WEIGHT_CRITERIA[name](program, sensitivity(batches, samples=3))
    assert few.samples == exact.samples == 3
    for key, scores in few.importance.items():
        assert torch.equal(scores, exact.importance[key])
    with pytest.raises(InputError, match="data gives no batches"):
        WEIGHT_CRITERIA[name](program, sensitivity([]))


@pytest.mark.parametrize("name", NEEDS_DATA)
def test_samples_are_those_asked_for(name: str) -> None:
    """Of more data the first ones, the next round goes on behind them."""
    program = prepared(Mlp((4, 3), torch.tanh), torch.randn(2, 5))
    batches = batches_like(torch.randn(1, 5).double(), 2, 2, 2)
    options = sensitivity(batches, samples=3)
    first, later = WEIGHT_CRITERIA[name](program, options), WEIGHT_CRITERIA[name](program, options)
    assert first.samples == later.samples == 3
    (x1, y1), (x2, y2), _ = batches
    alone = WEIGHT_CRITERIA[name](program, sensitivity([(x1, y1), (x2[:1], y2[:1])]))
    for key, scores in first.importance.items():
        torch.testing.assert_close(scores, alone.importance[key], rtol=1e-12, atol=0)
    assert not torch.equal(first.importance["fc1.weight"], later.importance["fc1.weight"])


@pytest.mark.parametrize("name", ["grasp", "taylor"])
def test_batch_sizes_do_not_matter(name: str) -> None:
    program = prepared(Residual(), images())
    batches = batches_like(images().double(), 1, 4, 2)
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    apart = WEIGHT_CRITERIA[name](program, sensitivity(batches))
    together = WEIGHT_CRITERIA[name](program, sensitivity(whole))
    for key, scores in apart.importance.items():
        torch.testing.assert_close(scores, together.importance[key], rtol=1e-9, atol=1e-18)


def test_magnitude() -> None:
    program = prepared(Grouped(), TOKENS)
    before = {name: weight.detach().abs() for name, weight in pool_of(program).items()}
    dead = with_dead_weights(program, dormant=True)
    found = WEIGHT_CRITERIA["magnitude"](dead, sensitivity(None)).importance
    held = WEIGHT_CRITERIA["magnitude"](
        replace(dead, history=replace(dead.history, dormant={})), sensitivity(None)
    ).importance
    for name, scores in found.items():
        assert torch.equal(scores, before[name])
        assert torch.equal(held[name], before[name] * dead.history.masks[name])


def random(program: Program, seed: int) -> Tensor:
    found = WEIGHT_CRITERIA["random"](program, sensitivity(None, seed=seed)).importance
    return torch.cat([scores.flatten() for scores in found.values()])


def test_random_is_uniform_and_differs_by_seed_and_round() -> None:
    program = prepared(nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 3)), torch.randn(2, 100))
    first = random(program, 0)
    torch.manual_seed(5)
    assert torch.equal(first, random(program, 0))
    assert not torch.equal(first, random(program, 1))
    later = random(with_dead_weights(program), 0)
    assert not torch.equal(first, later)
    ordered = first.sort().values  # Kolmogorov-Smirnov at about 5 standard deviations of n^-1/2 / 2
    places = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    assert float((ordered - places).abs().max()) < 2.5 / len(ordered) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([first, later]))[0, 1])) < 5 / len(first) ** 0.5


@pytest.mark.cuda
@pytest.mark.parametrize("name", WEIGHT_CRITERIA.names())
@pytest.mark.parametrize("model", MODELS)
def test_on_cuda(name: str, model: str) -> None:
    factory, example = MODELS[model]
    network = factory().double()
    on_cpu, _ = analysed(network, example.double())
    options = sensitivity(batches_like(example.double(), 3, 2))
    expected = WEIGHT_CRITERIA[name](on_cpu, options)
    on_cuda, _ = analysed(network.cuda(), example.double().cuda())
    found = weight_scores_of(WEIGHT_CRITERIA[name], on_cuda, options)
    for key, scores in found.importance.items():
        assert scores.is_cuda
        torch.testing.assert_close(scores.cpu(), expected.importance[key], rtol=1e-6, atol=1e-14)
