"""Gates where memory is shared: writes in place, and samples and heads in one dim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.gates.insertion import can_be_per_sample, insert_gates
from graphprune.gates.placement import find_sites
from graphprune.program.module_state import evaluating
from tests.gates.test_gates import check_closed_is_masked
from tests.ops.case import net, randomised
from tests.small_models import analysed


def _later(x: Tensor) -> Tensor:
    """What is read after a ReLU in place is the ReLU's result."""
    return functional.relu_(x).sqrt() + x


def _parts(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :4] = x[:, 4:] * 2
    y[:, 2:6] += 1
    return y


def _into_zeros(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :2, 1:] = x[:, :2, :-1]
    y[:, 2:] = x[:, 2:]
    return y


def _through_a_view(x: Tensor) -> Tensor:
    first, second = x[:, :4], x[:, 4:]
    second.mul_(first.sigmoid())
    return x + 1


@pytest.mark.parametrize("middle", [_later, _parts, _into_zeros, _through_a_view])
def test_a_closed_gate_is_a_removed_channel(middle: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = net(lambda self, x: self.head(middle(self.a(x))), a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(8, 4, 1))
    check_closed_is_masked(randomised(model), torch.randn(2, 3, 5, 5))


def _heads_in_the_batch_dim(heads_first: bool) -> nn.Module:
    """Three heads of width 4, heads and samples in one dim, in either order."""

    def split(x: Tensor) -> Tensor:
        if heads_first:
            return torch.cat(x.split(4, 2), 0)
        n, length, _ = x.shape
        return x.view(n, length, 3, 4).transpose(1, 2).reshape(n * 3, length, 4)

    def joined(x: Tensor) -> Tensor:
        if heads_first:
            return torch.cat(x.chunk(3, 0), 2)
        return x.view(-1, 3, x.shape[1], 4).transpose(1, 2).flatten(2)

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (split(layer(x)) for layer in (self.q, self.k, self.v))
        result: Tensor = self.head(joined(torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)))
        return result

    return net(forward, q=nn.Linear(5, 12), k=nn.Linear(5, 12), v=nn.Linear(5, 12), head=nn.Linear(12, 4))


@pytest.mark.parametrize("heads_first", [False, True])
def test_heads_that_share_a_dim_with_samples(heads_first: bool) -> None:
    """Each sample has gates of its own, and one gate for all fits batches of any size."""
    torch.manual_seed(0)
    program, dependencies = analysed(_heads_in_the_batch_dim(heads_first), torch.randn(2, 7, 5))
    sites = find_sites(program, dependencies)
    assert dependencies.channels > 0 and all(map(can_be_per_sample, sites))
    single, several = (insert_gates(program, dependencies, sites, per_sample=own) for own in (False, True))
    inputs, gate = torch.randn(3, 7, 5), torch.rand(3, single.channels + 1)
    gate[:, -1] = 1
    several.set_gate(gate)
    with evaluating(single.module), evaluating(several.module):
        together = several.module(inputs)
        for sample in range(3):
            single.set_gate(gate[sample])
            # sums of some ten products in float32, in another order
            torch.testing.assert_close(single.module(inputs)[sample], together[sample])
