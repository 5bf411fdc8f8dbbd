"""A part of a split that loses every channel would be an empty tensor, which many ops refuse."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ops.case import net
from tests.property.checks import dependencies_of
from tests.regressions.pruning import analysed, assert_prunes_right


def _split(x: Tensor) -> Tensor:
    first, second = x.split([4, 4], 1)
    return torch.cat([F.interpolate(first, scale_factor=2.0), F.interpolate(second * 2, scale_factor=2.0)], 1)


def test_each_part_is_a_group() -> None:
    model = net(lambda self, x: self.head(_split(self.a(x))), a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(8, 4, 1))
    example = torch.randn(2, 3, 6, 6)
    assert [group.channels for group in dependencies_of(analysed(model, example)).groups] == [4, 4]
    assert_prunes_right(model, example)
