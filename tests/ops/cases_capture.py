"""Rows for what decides how a model is captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.case import Case, image, net
from tests.ops.cases_mixing import BOTH

IMAGE = image(2, 3, 6, 6)


def _shape_decides(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    if y.shape[1] > 4:
        y = y.relu()
    if y.dim() == 4 and len(self.extra) > 0:
        for layer in self.extra:
            y = layer(y)
    result: Tensor = self.head(y)
    return result


def _rank_decides(self: Any, x: Tensor) -> Tensor:
    y = self.a(x).relu()
    y = y if len(y.shape) == 4 else y.unsqueeze(0)
    y = y.view(len(y), int(y.shape[1]) * y.shape[2], -1).view(y.shape)
    result: Tensor = self.head(self.drop(self.norm(y)))
    return result


def _from_dict(self: Any, batch: dict[str, Tensor]) -> Tensor:
    result: Tensor = self.head(self.a(batch["x"]).relu() + self.b(batch["y"]))
    return result


def _any_arguments(self: Any, *inputs: Tensor) -> Tensor:
    result: Tensor = self.head(torch.cat([self.a(each) for each in inputs], 1))
    return result


ROWS = (
    Case("control flow on a shape", lambda: net(
        _shape_decides, a=nn.Conv2d(3, 8, 3), extra=nn.ModuleList([nn.Conv2d(8, 8, 1), nn.ReLU()]), head=nn.Conv2d(8, 4,
            1)),
         IMAGE, (*BOTH, "extra.0.weight")),
    Case("only torch.export captures", lambda: net(
        _rank_decides, a=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), drop=nn.Dropout(0.2), head=nn.Conv2d(8, 4, 1)),
         IMAGE, (*BOTH, "norm.weight"), exported=True),
    Case("a dict as input", lambda: net(
        _from_dict, a=nn.Linear(5, 8), b=nn.Linear(6, 8), head=nn.Linear(8, 4)),
         lambda: ({"x": torch.randn(3, 5), "y": torch.randn(3, 6)},), (*BOTH, "b.weight"), exported=True),
    Case("any number of arguments", lambda: net(_any_arguments, a=nn.Linear(5, 8), head=nn.Linear(16, 4)),
         lambda: (torch.randn(3, 5), torch.randn(3, 5)), BOTH, exported=True),
    Case("keyword arguments", lambda: net(
        lambda self, x, y, scale=2.0: self.head(self.a(x).relu() * scale + self.b(y)),
        a=nn.Linear(5, 8), b=nn.Linear(6, 8), head=nn.Linear(8, 4)),
         lambda: {"y": torch.randn(3, 6), "x": torch.randn(3, 5)}, (*BOTH, "b.weight")),
    Case("batch of one", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)),
         image(1, 3, 6, 6), ("0.weight", "3.weight:1")),
)  # fmt: skip
