"""Which nodes are dead: writes in place that somebody sees, statistics and checks are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.capture import capture
from graphprune.passes.drop_dead_nodes import DropDeadNodes
from graphprune.program.liveness import dead_nodes
from graphprune.program.program import Program
from graphprune.program.tensors import stored_tensors
from tests.ops.case import net, randomised

INPUTS = torch.linspace(-2, 2, 30).view(6, 5)


def with_hidden(middle: Callable[[Any, Tensor], Tensor], **parts: Any) -> nn.Module:
    """A model that does something to the result of its first layer."""
    return net(lambda self, x: self.head(middle(self, self.fc(x))), fc=nn.Linear(5, 8), head=nn.Linear(8, 3), **parts)


def dead_in(program: Program) -> set[str]:
    return {node.name for node in dead_nodes(program.module)}


def _setitem(self: Any, y: Tensor) -> Tensor:
    y[:, :3] = 0.5
    return y


def _setitem_in_a_view(self: Any, y: Tensor) -> Tensor:
    part = y[:, 2:]
    part[:, 1:4] = -1.0
    return y


def _method(self: Any, y: Tensor) -> Tensor:
    y.view(-1, 2, 4).clamp_(-0.1, 0.1)
    return y


def _relu_(self: Any, y: Tensor) -> Tensor:
    torch.relu_(y)
    return y


def _functional_relu_(self: Any, y: Tensor) -> Tensor:
    functional.relu_(y)
    return y


def _told_by_name(self: Any, y: Tensor) -> Tensor:
    functional.relu(y, inplace=True)
    return y


def _told_by_position(self: Any, y: Tensor) -> Tensor:
    functional.leaky_relu(y, 0.3, True)
    return y


def _layer(self: Any, y: Tensor) -> Tensor:
    self.act(y)
    return y


def _layer_on_a_view(self: Any, y: Tensor) -> Tensor:
    self.act(y[:, 3:])
    return y


def _layer_seen_through_a_view(self: Any, y: Tensor) -> Tensor:
    wide = y.view(-1, 8)
    self.act(y)
    return wide


def _layers_in_a_row(self: Any, y: Tensor) -> Tensor:
    self.tanh(self.act(y))
    return y


def _out(self: Any, y: Tensor) -> Tensor:
    torch.mul(y, 3.0, out=y)
    return y


def _ipow(self: Any, y: Tensor) -> Tensor:
    z = y.view(-1, 8)
    z **= 2
    return y


def _imod(self: Any, y: Tensor) -> Tensor:
    z = y.view(-1, 8)
    z %= 0.25
    return y


def _isub(self: Any, y: Tensor) -> Tensor:
    z = y.view(-1, 8)
    z -= 2
    return y


def _ior(self: Any, y: Tensor) -> Tensor:
    high = y > 0.3
    wide = high.view(-1, 8)
    wide |= y < -0.3
    return y * high


def _ixor(self: Any, y: Tensor) -> Tensor:
    high = y > 0.3
    wide = high.view(-1, 8)
    wide ^= y > 0.6
    return y * high


WRITES = {
    write.__name__: write
    for write in (
        _setitem, _setitem_in_a_view, _method, _relu_, _functional_relu_, _told_by_name, _told_by_position, _layer,
        _layer_on_a_view, _layer_seen_through_a_view, _layers_in_a_row, _out, _ipow, _imod, _isub, _ior, _ixor,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_a_write_in_place_that_somebody_sees_stays(name: str) -> None:
    model = with_hidden(WRITES[name], act=nn.ReLU(inplace=True), tanh=nn.Hardtanh(-0.2, 0.2, inplace=True)).eval()
    plain = with_hidden(lambda self, y: y).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(INPUTS)
        assert not torch.allclose(expected, plain(INPUTS), atol=1e-3), "the write is seen"
        program = DropDeadNodes().run(capture(model, INPUTS)).program
        assert torch.equal(program.module.eval()(INPUTS), expected), "the same ops on the same numbers"


def _dead_after(act: Callable[[Any, Tensor], Any]) -> nn.Module:
    def middle(self: Any, y: Tensor) -> Tensor:
        act(self, self.aux(y))
        return torch.tanh(y)

    return with_hidden(
        middle,
        aux=nn.Linear(8, 20),
        act=nn.ReLU(inplace=True),
        drop=nn.Dropout(0.5, inplace=True),
        last=nn.Linear(20, 2),
    )


@pytest.mark.parametrize(
    ("act", "dead"),
    [
        (lambda self, z: self.last(self.act(z)), {"aux", "act", "last"}),
        (lambda self, z: self.drop(self.act(z)), {"aux", "act", "drop"}),
        (lambda self, z: functional.relu(z, inplace=True), {"aux", "relu"}),
        (lambda self, z: (self.act(z), self.last(z)), {"aux", "act", "last"}),
    ],
    ids=["in the middle", "two in a row", "a function", "read later"],
)
def test_a_write_in_place_that_only_dead_nodes_see_is_dead(act: Callable[[Any, Tensor], Any], dead: set[str]) -> None:
    assert dead_in(capture(_dead_after(act), INPUTS)) == dead


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda self, z: self.drop(z),
        lambda self, z: functional.dropout(z, 0.5, self.training),
        lambda self, z: z + torch.randn_like(z),
        lambda self, z: torch.bernoulli(torch.sigmoid(z)),
    ],
    ids=["layer", "function", "noise", "coins"],
)
def test_random_numbers_that_nobody_uses_are_dead(draw: Callable[[Any, Tensor], Tensor], exported: bool) -> None:
    def middle(self: Any, y: Tensor) -> Tensor:
        draw(self, self.aux(y if not exported or len(y) > 0 else y + 1))
        return torch.tanh(y)

    program = capture(with_hidden(middle, aux=nn.Linear(8, 20), drop=nn.Dropout(0.5)), INPUTS)
    assert ("export" in program.captured_by.route) == exported
    assert "aux.weight" not in stored_tensors(DropDeadNodes().run(program).program.module)


def test_a_write_of_random_numbers_stays() -> None:
    def middle(self: Any, y: Tensor) -> Tensor:
        y.view(-1).normal_()
        return torch.tanh(y)

    assert dead_in(capture(with_hidden(middle), INPUTS)) == set()


def test_a_write_to_the_input_stays() -> None:
    """The caller sees it."""
    model = net(lambda self, x: (self.act(x), self.fc(x * 2))[1], act=nn.ReLU(inplace=True), fc=nn.Linear(5, 3))
    assert dead_in(capture(model, INPUTS)) == set()


def test_a_write_to_a_buffer_stays() -> None:
    def middle(self: Any, y: Tensor) -> Tensor:
        self.steps.add_(1)
        self.unread * 2
        return torch.relu(y)

    model = with_hidden(middle, steps=torch.zeros(()), unread=torch.ones(3))
    program = DropDeadNodes().run(capture(model, INPUTS)).program
    program.module(INPUTS)
    program.module(INPUTS)
    buffers = dict(program.module.named_buffers())
    assert buffers.keys() == {"steps"} and buffers["steps"].item() == 2


def test_a_check_stays() -> None:
    def middle(self: Any, y: Tensor) -> Tensor:
        torch._assert(y.shape[0] > 1, "batches of two and more")
        return torch.relu(y)

    program = DropDeadNodes().run(capture(with_hidden(middle), INPUTS)).program
    with pytest.raises(AssertionError, match="batches of two and more"):
        program.module(INPUTS[:1])


def test_a_layer_with_a_hook_stays() -> None:
    seen = []
    program = capture(_dead_after(lambda self, z: self.last(z)), INPUTS)
    program.module.get_submodule("aux").register_forward_hook(lambda *_: seen.append(1))
    assert dead_in(program) == {"last"}
    DropDeadNodes().run(program).program.module(INPUTS)
    assert seen == [1]


def test_what_is_wanted_is_not_dead() -> None:
    program = capture(_dead_after(lambda self, z: self.last(z)), INPUTS)
    tensors = stored_tensors(program.module)
    dead = {node.name for node in dead_nodes(program.module, {id(tensors["aux.bias"])})}
    assert dead == {"last"}, "what reads it, and not what reads that"


def _by_layer(self: Any, y: Tensor) -> Tensor:
    self.norm(3 * y + 1)
    return torch.relu(self.norm(y))


def _by_layer_afterwards(self: Any, y: Tensor) -> Tensor:
    out = torch.relu(self.norm(y))
    self.norm(self.inner(y))
    return out


def _by_function(self: Any, y: Tensor) -> Tensor:
    functional.batch_norm(3 * y + 1, self.norm.running_mean, self.norm.running_var, training=self.training)
    return torch.relu(self.norm(y))


def _exported(self: Any, y: Tensor) -> Tensor:
    self.norm(3 * y + 1 if len(y) > 0 else y)
    return torch.relu(self.norm(y))


@pytest.mark.parametrize("middle", [_by_layer, _by_layer_afterwards, _by_function, _exported])
def test_statistics_that_live_nodes_read_count_dead_calls(middle: Callable[[Any, Tensor], Tensor]) -> None:
    model = with_hidden(middle, norm=nn.BatchNorm1d(8), inner=nn.Linear(8, 8))
    program = DropDeadNodes().run(capture(model, INPUTS)).program
    ours, theirs = copy.deepcopy(program.module), copy.deepcopy(model)
    for module in (ours.train(), theirs.train()):
        for step in range(3):
            module(INPUTS + step)
        module.eval()
    # sums of six numbers in float32, in another order
    torch.testing.assert_close(ours.get_buffer("norm.running_mean"), theirs.get_buffer("norm.running_mean"))
    torch.testing.assert_close(ours.get_buffer("norm.running_var"), theirs.get_buffer("norm.running_var"))
    torch.testing.assert_close(ours(INPUTS), theirs(INPUTS))


def test_statistics_that_only_dead_nodes_read_are_dead() -> None:
    def middle(self: Any, y: Tensor) -> Tensor:
        self.norm(self.norm(self.aux(y)))
        return torch.relu(y)

    model = randomised(with_hidden(middle, aux=nn.Linear(8, 6), norm=nn.BatchNorm1d(6)))
    assert dead_in(capture(model, INPUTS)) == {"aux", "norm", "norm_1"}
