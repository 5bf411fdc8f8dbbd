"""Weights that are divided by their own norm: one of each norm stays, or the network would compute 0 / 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import graphprune
from graphprune.errors import BudgetError, OptionError
from graphprune.selection.norms import best_of_empty, norms_of
from tests.small_models import CLASSES, analysed, images

NORMS: dict[str, tuple[Callable[[nn.Module], nn.Module], str, int | None]] = {
    "weight norm": (parametrizations.weight_norm, "conv1.parametrizations.weight.original1", 0),
    "of inputs": (partial(parametrizations.weight_norm, dim=1), "conv1.parametrizations.weight.original1", 1),
    "of all": (partial(parametrizations.weight_norm, dim=-1), "conv1.parametrizations.weight.original1", None),
    "spectral norm": (parametrizations.spectral_norm, "conv1.parametrizations.weight.original", None),
    "older weight norm": (torch.nn.utils.weight_norm, "conv1.weight_v", 0),
    "older spectral norm": (torch.nn.utils.spectral_norm, "conv1.weight_orig", None),
}


class Normed(nn.Module):
    """Two convolutions and a linear layer, each with a norm."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = norm(nn.Conv2d(2, 6, 3, padding=1)), norm(nn.Conv2d(6, 6, 3, padding=1))
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3)))
        return out


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("granularity", ["weight", "mixed"])
@pytest.mark.parametrize("name", NORMS)
def test_no_norm_is_zero(name: str, granularity: str) -> None:
    """The random ranking empties some norm in each of these: without a weight that stays, outputs are no numbers."""
    norm, parameter, dim = NORMS[name]
    model = Normed(norm)
    program, _ = analysed(model, images(2))
    assert norms_of(program)[parameter] == dim
    for seed in range(3):
        compiled = graphprune.compile(
            model, images(2), granularity=granularity, sparsity=0.92, criterion="random", schedule="linear", seed=seed
        )
        total, left = compiled.report.costs["weights"]
        assert left == total - -(-total * 92 // 100)
        assert bool(torch.isfinite(compiled.module.eval()(images(3))).all())
        assert compiled.verify().relative_error <= 1e-5


def test_rounds_do_not_iterate_spectral_norms() -> None:
    """In training mode each look at such a weight moves the vectors that its norm is computed with."""
    model = Normed(parametrizations.spectral_norm).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    compiled = graphprune.compile(model, images(2), granularity="weight", sparsity=0.9)
    after = dict(compiled.module.named_buffers())
    assert before and all(torch.equal(after[name], value) for name, value in before.items())


def test_more_norms_than_weights_that_may_stay() -> None:
    model = Normed(parametrizations.weight_norm)
    with pytest.raises(BudgetError, match=r"11 weights may stay, but \d+ have to, one for each norm"):
        graphprune.compile(model, images(2), granularity="weight", sparsity=0.975, criterion="magnitude")


@pytest.mark.parametrize("granularity", ["weight", "mixed"])
def test_dead_paths_cannot_go_from_norms(granularity: str) -> None:
    model = Normed(parametrizations.weight_norm)
    with pytest.raises(OptionError, match=r"divides conv1\.parametrizations\.weight\.original1, conv2.* by their own"):
        graphprune.compile(model, images(2), granularity=granularity, dead_paths="remove")


def test_the_best_of_each_norm_that_is_empty() -> None:
    importance = torch.tensor([[1.0, 3.0, 2.0], [9.0, 8.0, 7.0], [float("-inf")] * 3])
    dead = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    assert best_of_empty(importance, dead, 0).tolist() == [1], "the second is alive, the third cannot be"
    assert best_of_empty(importance, dead, 1).tolist() == [3, 5]
    assert best_of_empty(importance, dead, None).tolist() == []
    assert best_of_empty(importance, torch.ones_like(dead), None).tolist() == [3]
