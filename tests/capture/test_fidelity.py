"""A captured program computes what the model computes, whatever its Python code asks; else it is refused.

Each model below is one that tracing alone gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.capture import capture
from graphprune.errors import CaptureError, OptionError
from graphprune.program.program import Program

Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Two convolutions with a forward that is given."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.code = forward

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8)


def captured(forward: Forward) -> tuple[Net, Program]:
    torch.manual_seed(0)
    net = Net(forward).eval()
    return net, capture(net, images(4))


def assigned_alias(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    same = y
    y += 1.0
    return self.b(same)


def assigned_view(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    flat = y.view(y.shape[0], 8, -1)
    y *= 2.0
    return self.b(flat.view(y.shape))


def assigned_parts(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    for part in y.clone().chunk(2, 1):
        part -= 0.5
        y = torch.cat([part, part], 1) + y
    return self.b(y)


def by_type(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x) * (2.0 if x.dtype is torch.float32 else 1.0))


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_number(value: object) -> bool:
    return isinstance(value, int)


def by_being_a_tensor(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x) * (2.0 if _is_tensor(x) else 1.0))


def by_having_an_attribute(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x) * (2.0 if hasattr(x, "no_such_thing") else 1.0))


def by_being_a_number(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x) * (2.0 if _is_number(x.shape[1]) else 1.0))


def by_many_samples(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x) * (2.0 if x.shape[0] > 2000 else 1.0))


def padded(self: Any, x: Tensor) -> Any:
    extra = -x.shape[-1] % 8
    y = nn.functional.pad(x, (0, extra)) if extra else x
    return self.b(self.a(y))


@pytest.mark.parametrize(
    "forward",
    [assigned_alias, assigned_view, assigned_parts, by_type, by_being_a_tensor, by_having_an_attribute,
     by_being_a_number, by_many_samples, padded],
    ids=lambda forward: forward.__name__,
)  # fmt: skip
def test_the_graph_computes_what_the_model_computes(forward: Forward) -> None:
    net, program = captured(forward)
    module = program.module.eval()
    for count in (1, 2, 4, 37):
        x = images(count)
        with torch.no_grad():  # autograd refuses some writes to parts
            torch.testing.assert_close(module(x.clone()), net(x.clone()))


def by_own_batch(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x) * (2.0 if x.shape[0] % 4 == 0 else 1.0))


def one_by_one(self: Any, x: Tensor) -> Any:
    return self.b(torch.cat([self.a(x[index : index + 1]) for index in range(x.shape[0])]))


@pytest.mark.parametrize("forward", [by_own_batch, one_by_one], ids=lambda forward: forward.__name__)
def test_a_graph_that_is_right_for_one_batch_size_refuses_others(forward: Forward) -> None:
    net, program = captured(forward)
    assert "for batches of 4 only" in program.captured_by.route
    module = program.module.eval()
    x = images(4)
    torch.testing.assert_close(module(x), net(x))
    with pytest.raises(AssertionError, match=r"was captured for 'x' of the shape \(4, 3, 8, 8\)"):
        module(images(5))


def test_batches_that_take_another_path_are_refused() -> None:
    _, program = captured(by_many_samples)
    with pytest.raises(AssertionError, match="was captured for batches of at most 2000"):
        program.module(images(1).expand(2001, 3, 8, 8))


def test_sizes_that_the_graph_relies_on_are_required() -> None:
    _, program = captured(padded)
    with pytest.raises(AssertionError, match=r"was captured for 'x' of the shape \(batch, 3, 8, 8\)"):
        program.module(torch.randn(2, 3, 8, 13))


def test_arguments_that_the_graph_relies_on_are_required() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 8)

        def forward(self, x: Tensor, gain: float = 1.0, bias: Tensor | None = None) -> Any:
            y = self.a(x)
            y = y * gain if gain != 1.0 else y
            return y if bias is None else y + bias

    model, example = Scaled().eval(), (torch.randn(4, 5), 2.0, torch.randn(8))
    program = capture(model, example)
    torch.testing.assert_close(program.module(*example), model(*example))
    with pytest.raises(AssertionError, match=r"was captured for 'gain' = 2\.0"):
        program.module(example[0], 3.0, example[2])


def test_random_numbers_are_drawn_anew() -> None:
    net = Net(lambda self, x: self.b(self.a(x) + torch.randn(8, 1, 1))).eval()
    x = images(2)
    state = torch.get_rng_state()
    program = capture(net, x)
    assert torch.equal(torch.get_rng_state(), state), "tracing drew from the process's own generator"
    assert not torch.equal(program.module(x), program.module(x))


def test_a_cache_outside_of_the_model_keeps_tensors() -> None:
    cache: dict[str, Tensor] = {}

    def cached(self: Any, x: Tensor) -> Any:
        y = self.a(x)
        if "positions" not in cache:
            cache["positions"] = torch.arange(y.shape[-1], device=x.device).float()
        return self.b(y + cache["positions"])

    net, _ = captured(cached)
    assert type(cache["positions"]) is Tensor
    net(images(2))


def test_transforms_of_functions_are_refused_and_left() -> None:
    with pytest.raises(CaptureError, match=r"torch\.func"):
        captured(lambda self, x: self.b(torch.vmap(torch.sin)(self.a(x))))
    torch.randn(2)  # would fail inside of a transform that was not left


def test_a_route_that_failed_leaves_nothing_behind() -> None:
    class Cached(Net):
        positions: Tensor | None = None

        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            if self.positions is None:
                self.positions = torch.arange(x.shape[-1]).float()
            return self.b(y + self.positions) if y.shape[1] == 8 else y

    net = Cached(by_type).eval()
    program = capture(net, images(4))
    x = images(3)
    torch.testing.assert_close(program.module.eval()(x), net(x))


def test_weights_made_without_autograd_are_copied() -> None:
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    assert capture(net, torch.randn(2, 5)).module(torch.randn(2, 5)).requires_grad


def test_a_forward_that_was_replaced_by_a_closure() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    original = net[0].forward
    net[0].forward = lambda x: original(x) * 3
    compiled = graphprune.compile(net, torch.randn(2, 5), sparsity=0.5, schedule="one-shot")
    assert compiled.verify().relative_error < 1e-5
    # what a closure holds is a constant of the program, and no weight that a norm could be taken of
    with pytest.raises(OptionError, match="no weight makes their channels"):
        graphprune.compile(net, torch.randn(2, 5), sparsity=0.5, criterion="l2-norm", schedule="one-shot")


def test_what_cannot_be_captured_says_why_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class ByValue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x * 2 if bool(x.sum() > 0) else x)
            return out

    with pytest.raises(CaptureError, match="cannot be captured"):
        capture(ByValue(), torch.rand(2, 5))
    said = capfd.readouterr()
    assert not said.out and not said.err


def test_what_only_training_computes_is_said() -> None:
    def noisy(self: Any, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(y * (torch.rand(len(y), 1, 1, 1) > 0.5) if self.training else y)

    _, program = captured(noisy)
    assert "training mode" in program.captured_by.reason
    _, program = captured(by_many_samples)
    assert "training mode" not in program.captured_by.reason


def test_hooks_of_the_model_itself_are_compared_in_any_case() -> None:
    model = Net(lambda self, x: self.b(self.a(x)))
    model.register_forward_hook(lambda module, args, output: output * 2)
    program = capture(model, images(2), verify=False)
    assert program.captured_by.route == "torch.export"  # which calls the model with its hooks
    x = images(3)
    assert torch.allclose(program.module(x), model(x), atol=1e-6)
    watched = Net(lambda self, x: self.b(self.a(x)))
    watched.register_forward_pre_hook(lambda module, args: None)
    assert capture(watched, images(2), verify=False).captured_by.route == "torch.fx"
