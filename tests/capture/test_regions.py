"""Regions without gradients or with autocast switched off, which torch.export wraps in graphs of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import CaptureError


class Wrapped(nn.Module):
    """Scales by what a region computed; looks at the size of the batch, so that only torch.export can capture it."""

    def __init__(self, region: torch.autograd.grad_mode.no_grad | torch.autocast) -> None:
        super().__init__()
        self.hidden, self.scale, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.region = region

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x) if len(x) > 0 else x
        with self.region:
            gate = torch.sigmoid(self.scale(x))
            shift = gate * 2
        out: Tensor = self.head(x * gate + shift)
        return out


def compiled(region: torch.autograd.grad_mode.no_grad | torch.autocast) -> graphprune.Compiled:
    torch.manual_seed(0)
    model = Wrapped(region)
    result = graphprune.compile(model, torch.randn(2, 5), sparsity=0.5)
    assert "torch.export" in result.report.captured_by
    assert result.verify().relative_error <= 1e-5
    assert not [node for node in result.module.graph.nodes if "wrap_with" in str(node.target)]
    return result


def test_what_was_computed_without_gradients_has_none() -> None:
    module = compiled(torch.no_grad()).module
    module(torch.randn(4, 5)).sum().backward()
    assert module.get_parameter("hidden.weight").grad is not None
    assert module.get_parameter("scale.weight").grad is None


def test_autocast_that_is_switched_off_changes_nothing() -> None:
    module = compiled(torch.autocast("cpu", enabled=False)).module
    module(torch.randn(4, 5)).sum().backward()
    assert module.get_parameter("scale.weight").grad is not None


def test_autocast_that_is_on_is_refused() -> None:
    with pytest.raises(CaptureError, match="wrap_with_autocast inside of the model"):
        graphprune.compile(Wrapped(torch.autocast("cpu", dtype=torch.bfloat16)), torch.randn(2, 5))
