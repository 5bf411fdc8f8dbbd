"""A conjugate is a flag until its values are needed; the tensor that carries labels has no such flag."""

from __future__ import annotations

import torch
from torch import nn

from tests.ops.case import net
from tests.regressions.pruning import assert_prunes_right


def test_imaginary_part_of_a_conjugate() -> None:
    model = net(
        lambda self, x: (lambda y: self.head(torch.complex(y, y.tanh()).conj().imag))(self.a(x)),
        a=nn.Linear(5, 8),
        head=nn.Linear(8, 4),
    )
    assert_prunes_right(model, torch.randn(3, 5))
