"""What capture has to keep of a model beyond its function in evaluation mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.capture import capture
from graphprune.errors import CaptureError, InputError
from graphprune.program.nodes import source_line
from graphprune.program.tensors import stored_parameters
from tests.small_models import Mlp


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Quantised(nn.Module):
    def __init__(self, by_value: bool = False) -> None:
        super().__init__()
        self.conv, self.head, self.by_value = nn.Conv2d(3, 16, 3), nn.Linear(16, 4), by_value

    def forward(self, x: Tensor) -> Tensor:
        if self.by_value and len(x) > 1:
            x = x * 1
        signs: Tensor = StraightThrough.apply(self.conv(x))
        out: Tensor = self.head(signs.mean((2, 3)))
        return out


class Counting(nn.Module):
    count: Tensor

    def __init__(self, count: Tensor) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("count", count)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        out: Tensor = self.head(self.hidden(x))
        return out


class OwnNorm(nn.BatchNorm2d):
    pass


def test_a_custom_autograd_function_keeps_its_backward() -> None:
    model = Quantised()
    compiled = graphprune.compile(model, torch.randn(2, 3, 9, 9))
    compiled.module(torch.randn(2, 3, 9, 9)).sum().backward()
    gradient = compiled.module.get_parameter("conv.weight").grad
    assert gradient is not None and bool(gradient.abs().sum() > 0)
    assert compiled.verify().relative_error <= 1e-5


def test_a_custom_autograd_function_that_only_export_could_capture_is_refused() -> None:
    with pytest.raises(CaptureError, match="autograd function StraightThrough would lose its backward"):
        graphprune.compile(Quantised(by_value=True), torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("count", [torch.zeros(1), torch.zeros((), dtype=torch.long)])
def test_a_buffer_that_forward_counts_in_counts_on(count: Tensor) -> None:
    model = Counting(count)
    compiled = graphprune.compile(model, torch.randn(2, 4))
    compiled.verify()
    assert float(model.count) == 0 and float(compiled.module.get_buffer("count")) == 0
    compiled.module(torch.randn(2, 4))
    assert float(compiled.module.get_buffer("count")) == 1


def test_a_subclass_of_batch_norm_stays_one() -> None:
    norm = OwnNorm(8, momentum=None)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    compiled = graphprune.compile(model, torch.randn(2, 3, 9, 9))
    assert compiled.report.captured_by == "torch.fx"
    assert compiled.module.state_dict().keys() == model.state_dict().keys()
    compiled.module.train()(torch.randn(4, 3, 9, 9))
    assert bool(compiled.module.get_buffer("1.running_mean").any())


def test_buffers_that_are_not_saved_are_not_saved_of_copies() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
            self.scale: Tensor
            self.register_buffer("scale", torch.ones(8), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.fc(x)) * self.scale)
            return out

    module = graphprune.compile(Scaled(), torch.randn(2, 4), criterion="l1-norm").module
    for each in (module, copy.deepcopy(module), copy.deepcopy(copy.deepcopy(module))):
        assert each.get_buffer("scale").shape == (4,) and "scale" not in each.state_dict()


def test_nodes_of_models_without_code_of_the_users_have_no_line() -> None:
    program = capture(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(2, 5))
    assert {source_line(node) for node in program.module.graph.nodes} == {""}


def test_what_torch_compile_wraps_is_captured_under_its_own_names() -> None:
    model = Mlp()
    wrapped: Any = torch.compile(model)
    program = capture(wrapped, torch.randn(2, 5))
    assert set(stored_parameters(program.module)) == {name for name, _ in model.named_parameters()}
    assert program.captured_by.route == "torch.fx"
    part = nn.Sequential(nn.Linear(5, 5), wrapped)
    with pytest.raises(InputError, match=r"'1' was wrapped by torch\.compile.*compile the compact module"):
        capture(part, torch.randn(2, 5))
