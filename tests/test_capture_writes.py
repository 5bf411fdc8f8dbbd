"""What a graph, or a model, must not write to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.capture import capture
from graphprune.errors import CaptureError, UserError


class Pasted(nn.Module):
    """Writes two layers into a tensor of its own, by way of views."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        pasted = torch.zeros(4, 12)
        pasted[:, :6].copy_(torch.relu(self.first(x)))
        pasted[:, 6:].copy_(torch.relu(self.second(x)))
        out: Tensor = self.head(pasted)
        return out


@pytest.mark.parametrize("verify", [True, False])
def test_a_tensor_that_forward_makes_and_writes_to_is_no_constant(verify: bool) -> None:
    """Tracing makes it once, and a constant of each of its views; what one call writes would be there in the next."""
    model, x = Pasted(), torch.rand(4, 5)
    assert "tracing makes once" in capture(model, x, verify=verify).captured_by.reason
    compiled = graphprune.compile(model, x, sparsity=0.5, criterion="l1-norm", schedule="one-shot", verify=verify)
    kept = {name: indices.tolist() for (name, dim), indices in compiled.plan.kept.items() if name.endswith("weight")}
    with torch.no_grad():  # masked by hand, for verification runs the same graph
        for at, layer in enumerate(("first", "second")):
            dead = sorted({*range(6)} - {*kept.get(f"{layer}.weight", range(6))})
            model.head.weight[:, [6 * at + index for index in dead]] = 0
    other = torch.rand(4, 5)
    torch.testing.assert_close(compiled.module(other), model(other))
    for _ in range(2):
        compiled.module(other).sum().backward()  # what one call writes is not part of the next one's gradient


def test_a_sum_in_a_tensor_of_its_own_begins_anew_in_each_call() -> None:
    class Summed(Pasted):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(())
            for layer in (self.first, self.second):
                total += layer(x).mean()
            out: Tensor = self.head(torch.cat([self.first(x), self.second(x)], 1)) * total
            return out

    model, x = Summed(), torch.rand(4, 5)
    module = capture(model, x).module
    for _ in range(2):
        torch.testing.assert_close(module(x), model(x))


def test_what_a_model_remembers_in_an_attribute_is_its_own() -> None:
    class Remembering(Pasted):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.others = torch.zeros(6), {"mean": [torch.zeros(6)]}

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x))
            self.seen.copy_(hidden.detach().mean(0))
            self.others["mean"][0].copy_(hidden.detach().mean(0))
            out: Tensor = self.head(torch.cat([hidden, self.second(x)], 1))
            return out

    assert capture(Remembering(), torch.rand(4, 5)).captured_by.route == "torch.fx"


@pytest.mark.parametrize("verify", [True, False])
def test_what_only_training_writes_to_is_seen(verify: bool) -> None:
    class Normed(Pasted):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.cat([self.first(x), self.second(x)], 1)
            mean, variance = torch.zeros(12), torch.ones(12)
            hidden = nn.functional.batch_norm(hidden, mean, variance, training=self.training)
            out: Tensor = self.head(hidden)
            return out

    reason = capture(Normed(), torch.rand(4, 5), verify=verify).captured_by.reason
    assert "it writes to a tensor that the model makes anew" in reason


def test_constants_that_are_not_numbers_are_not_written_to() -> None:
    class Filled(Pasted):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.cat([self.first(x), self.second(x)], 1)
            out: Tensor = self.head(torch.nan_to_num(torch.where(hidden > 0, hidden, torch.full((12,), torch.nan))))
            return out

    assert capture(Filled(), torch.rand(4, 5)).captured_by.route == "torch.fx"


class Parts(Pasted):
    """Keeps a tensor, and parts of it or of a parameter as a buffer, an attribute or in a list; may write to one."""

    def __init__(self, kind: str, write: Callable[[Any, Tensor], Any] | None = None) -> None:
        super().__init__()
        whole = torch.zeros(4, 12)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[:, :6] if kind == "buffer" else torch.zeros(4, 6))
        self.plain = whole[:, :6] if kind == "attribute" else torch.zeros(4, 6)
        self.entries = [whole[:, :6] if kind == "entry" else torch.zeros(4, 6)]
        self.row = self.first.bias.data[:6] if kind == "parameter" else torch.zeros(6)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.relu(self.first(x)), self.second(x)
        if self.write is not None:
            self.write(self, first.detach())
        first, second = first + self.get_buffer("part") + self.plain, second + self.entries[0] + self.row
        out: Tensor = self.head(torch.cat([first, second], 1) + self.get_buffer("whole"))
        return out


KINDS = ("buffer", "attribute", "entry", "parameter")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_views_of_each_other_are_read(kind: str, verify: bool) -> None:
    assert capture(Parts(kind), torch.rand(4, 5), verify=verify).captured_by.route == "torch.fx"


@pytest.mark.parametrize("verify", [True, False])
def test_what_has_one_memory_and_nothing_of_it_in_common_is_written_to(verify: bool) -> None:
    apart = Parts("", write=lambda model, x: model.part.copy_(x))
    halves = torch.zeros(2, 4, 12)
    apart.whole, apart.part = halves[0], halves[1, :, :6]
    assert capture(apart, torch.rand(4, 5), verify=verify).captured_by.route == "torch.fx"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("kind", "write", "words"),
    [
        ("buffer", lambda model, x: model.part.copy_(x), "'part', which shares memory with 'whole'"),
        ("buffer", lambda model, x: model.whole[:, 6:].copy_(x), "'whole', which shares memory with 'part'"),
        ("attribute", lambda model, x: model.plain.copy_(x), "'plain', which shares memory with 'whole'"),
        ("attribute", lambda model, x: model.plain.data.copy_(x), "'plain', which shares memory with 'whole'"),
        ("attribute", lambda model, x: model.whole[:, 6:].copy_(x), "'whole', which shares memory with 'plain'"),
        ("entry", lambda model, x: model.entries[0].copy_(x), "'entries.0', which shares memory with 'whole'"),
        ("entry", lambda model, x: model.whole[:, 6:].copy_(x), "'whole', which shares memory with 'entries.0'"),
        ("parameter", lambda model, x: model.row.copy_(x.mean(0)), "'row', which shares memory with 'first.bias'"),
    ],
)
def test_views_of_each_other_are_not_written_to(
    kind: str, write: Callable[[Any, Tensor], Any], words: str, verify: bool
) -> None:
    model = Parts(kind, write)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CaptureError, match=f"Parts writes to {words}"):
        capture(model, torch.rand(4, 5), verify=verify)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Averaging(Pasted):
    """Writes to a parameter."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.average, self.way = nn.Parameter(torch.zeros(6), requires_grad=False), way

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        written = self.average.data if self.way == "data" else self.average
        if self.way != "training" or self.training:
            written.lerp_(first.detach().mean(0), 0.1)
        out: Tensor = self.head(torch.cat([first - self.average, self.second(x)], 1))
        return out


@pytest.mark.parametrize("way", ["in place", "data"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_model_that_writes_to_its_parameters_is_refused_and_stays_as_it_is(way: str, verify: bool) -> None:
    model, x = Averaging(way), torch.rand(4, 5)
    with pytest.raises(UserError, match=r"writes to its parameter 'average' in forward\(\)"):
        graphprune.compile(model, x, sparsity=0.3, criterion="l1-norm", verify=verify)
    assert not model.average.any()


def test_a_model_that_writes_to_its_parameters_in_training_only_is_pruned_and_stays_as_it_is() -> None:
    model, x = Averaging("training"), torch.rand(4, 5)
    compiled = graphprune.compile(model, x, sparsity=0.3, criterion="l1-norm")
    assert compiled.report.achieved["channels"] > 0.2
    assert not model.average.any()
