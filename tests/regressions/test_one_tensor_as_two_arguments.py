"""torch.export gives the nodes inside of a layer; a layer that got one tensor twice must not be called with it once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.case import net
from tests.regressions.pruning import analysed, assert_prunes_right


def _of_a_list(self: Any, inputs: list[Tensor]) -> Tensor:
    """torch.fx does not take containers."""
    y = self.a(inputs[0])
    result: Tensor = self.head(self.pair(y, y))
    return result


def test_bilinear_layer_of_one_tensor() -> None:
    model = net(_of_a_list, a=nn.Linear(5, 6), pair=nn.Bilinear(6, 6, 4), head=nn.Linear(4, 3))
    example = ([torch.randn(3, 5)],)
    assert analysed(model, example).captured_by.route == "torch.export"
    assert_prunes_right(model, example)
