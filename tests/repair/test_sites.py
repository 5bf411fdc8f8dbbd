"""Where layers are fitted, to what, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.repair.sites import Sites, sites_of
from tests.ops.case import net
from tests.repair.networks import FITTED
from tests.repair.test_refit import pruned


def sites(model: nn.Module, example: Tensor | None = None) -> Sites:
    torch.manual_seed(0)
    if example is None:
        compiled = pruned(model)
    else:
        compiled = graphprune.compile(model.eval(), example, sparsity=0.4, criterion="random", schedule="one-shot")
    dense, compact = compiled._original, compiled._compact
    return sites_of(dense, compact, KeepSet.of_indices(dense[Dependencies], compact.history.kept))


def targets(found: Sites) -> dict[str, str]:
    """For each layer, the node that it is fitted to."""
    return {site.affine.name: site.target for site in found.sites}


def test_residual_sums_are_targets_behind_a_batch_norm_or_directly() -> None:
    found = sites(FITTED["residual"]())
    assert targets(found) == {"s": "s", "a": "a", "b": "add", "head": "head"}
    assert [site.norm is not None for site in found.sites] == [False, True, True, False] and found.left == ()
    assert targets(sites(FITTED["sums behind linear layers"]()))["down"] == "add"


def test_of_two_branches_the_later_one_makes_up_for_both() -> None:
    model = net(
        lambda self, x: self.head((self.a(x) + self.b(x)).relu().mean((2, 3))),
        a=nn.Conv2d(4, 12, 1), b=nn.Conv2d(4, 12, 1), head=nn.Linear(12, 3),
    )  # fmt: skip
    assert targets(sites(model)) == {"a": "a", "b": "add", "head": "head"}


@pytest.mark.parametrize("write", ["relu_", "add_"])
def test_a_summand_that_is_written_to_in_between_is_no_target(write: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(F.relu(y))
        if write == "relu_":
            torch.relu_(y)
        else:
            y.add_(1.0)
        result: Tensor = self.head((y + z).mean((2, 3)))
        return result

    model = net(forward, a=nn.Conv2d(4, 12, 1), b=nn.Conv2d(12, 12, 1), head=nn.Linear(12, 3))
    assert targets(sites(model)) == {"a": "a", "b": "b", "head": "head"}


def test_scaled_sums_are_no_targets() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        result: Tensor = self.head(torch.add(y, self.b(y), alpha=2).mean((2, 3)))
        return result

    model = net(forward, a=nn.Conv2d(4, 12, 1), b=nn.Conv2d(12, 12, 1), head=nn.Linear(12, 3))
    assert targets(sites(model))["b"] == "b"


def test_functions_of_stored_tensors_are_found() -> None:
    found = sites(FITTED["functions"]())
    assert targets(found) == {"conv": "conv2d", "second": "conv2d_1", "head": "linear"}
    assert [site.norm is not None for site in found.sites] == [False, True, False]


def test_what_only_loses_outputs_is_not_said_to_be_left() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.positions = nn.Embedding(9, 12), nn.Parameter(torch.randn(1, 5, 12))
            self.up, self.head = nn.Linear(12, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.up(self.embed(x) + self.positions).relu().mean(1))
            return result

    found = sites(Tokens(), torch.randint(9, (2, 5)))
    assert found.left == () and list(targets(found)) == ["up", "head"]


def test_weights_that_are_computed_are_said_to_be_left() -> None:
    normed = torch.nn.utils.parametrizations.weight_norm
    model = net(lambda self, x: self.b(self.a(x).relu()), a=nn.Conv2d(4, 12, 1), b=normed(nn.Conv2d(12, 3, 1)))
    assert "b.parametrizations.weight.original1" in dict(sites(model).left)


def test_inputs_without_samples_are_left() -> None:
    model = net(lambda self, x: self.b(self.a(x[0]).relu())[None], a=nn.Linear(4, 12), b=nn.Linear(12, 3))
    found = sites(model, torch.randn(2, 4))
    assert found.sites == () and set(dict(found.left)) == {"a", "b"}
