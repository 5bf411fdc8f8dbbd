"""Operators that cannot shrink are measured as they are, and count in the latency of the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphprune.latency.kernels import Kernel
from graphprune.latency.model import LatencyModel
from tests.latency.stepped import HERE, Stepped
from tests.small_models import analysed


class Pairs(nn.Module):
    """A product over pairs of positions, of values that come in, and a layer that can shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.reshape(-1, 2, 5, 6)
        pairs = torch.einsum("bhic,bhjc->bhij", heads, heads)
        found: Tensor = self.second(torch.relu(self.first(heads))) * pairs.sum((-1, -2), keepdim=True)
        return found


def test_products_without_a_width_are_kernels_of_their_own_sizes() -> None:
    program, _ = analysed(Pairs(), torch.randn(3, 60))
    model = LatencyModel(program, Stepped(HERE, step=1))
    # for one sample: two heads, pairs of five positions, six channels
    assert model.fixed_kernels == [Kernel("MatMul", (2, 5, 5, 6))]
    shrunk_ms = float(model.ms(model.full)) - float(model.ms(model.full // 2))
    assert 0 < shrunk_ms < float(model.ms(model.full)) - model.profile.ms(model.fixed_kernels)[0]
