"""Sums of products over channels of which neither factor is a weight: masked channels need not be zero there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ops.case import net
from tests.regressions.pruning import assert_prunes_right

TOKENS = torch.randn(2, 7, 5)


def _linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (F.elu(q) + 1) @ ((F.elu(k) + 1).transpose(1, 2) @ v)


def test_similarities_of_what_went_through_a_sigmoid() -> None:
    model = net(
        lambda self, x: (lambda y: self.head(y.sigmoid() @ y.sigmoid().transpose(1, 2) @ y))(self.a(x)),
        a=nn.Linear(5, 8),
        head=nn.Linear(8, 4),
    )
    assert_prunes_right(model, TOKENS, mixing=True)


def test_linear_attention_with_a_kernel_that_is_one_at_zero() -> None:
    model = net(
        lambda self, x: self.head(_linear_attention(self.q(x), self.k(x), self.v(x))),
        q=nn.Linear(5, 8), k=nn.Linear(5, 8), v=nn.Linear(5, 8), head=nn.Linear(8, 4),
    )  # fmt: skip
    assert_prunes_right(model, TOKENS, mixing=True)


def test_distances() -> None:
    model = net(
        lambda self, x: self.head(torch.cdist(self.a(x), self.a(x).sigmoid())), a=nn.Linear(5, 8), head=nn.Linear(7, 4)
    )
    assert_prunes_right(model, TOKENS, mixing=True)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_over_tokens_that_are_channels(causal: bool) -> None:
    """Its softmax runs over them, so they stay."""
    model = net(
        lambda self, x: (lambda y: self.head(F.scaled_dot_product_attention(y, y.sigmoid(), y, is_causal=causal)))(
            self.a(x).unflatten(1, (6, 4))
        ),
        a=nn.Linear(5, 24),
        head=nn.Linear(4, 3),
    )
    assert_prunes_right(model, torch.randn(2, 5), mixing=True)
