"""A mask that is a constant picks what it names, also while the program is run without values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.ops.case import net
from tests.regressions.pruning import analysed, assert_prunes_right, prunable

EVEN = torch.tensor([True, False] * 4)


def _model(pick: Callable[[Tensor], Tensor], width: int) -> nn.Module:
    return net(lambda self, x: self.head(pick(self.a(x))), a=nn.Linear(5, 8), head=nn.Linear(width, 4))


def test_of_positions() -> None:
    assert_prunes_right(_model(lambda x: x[:, EVEN[:7]], 8), torch.randn(2, 7, 5))


@pytest.mark.parametrize("batch_size", [2, 3])
def test_of_channels(batch_size: int) -> None:
    """They stay, which is not an error of the user."""
    program = analysed(_model(lambda x: x[..., EVEN], 4), torch.randn(batch_size, 7, 5))
    assert prunable(program, "a.weight") == 0
