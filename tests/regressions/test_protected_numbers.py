"""A parameter that is a number has no channels; to protect it is no mistake."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.small_models import analysed


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x) * self.scale)
        return result


def test_a_number_can_be_protected() -> None:
    _, dependencies = analysed(Scaled(), torch.randn(2, 5), protect=("scale",))
    assert dependencies.channels == 8
