"""What a graph, or a model, must not write to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import graphprune
from graphprune.capture import capture
from graphprune.capture.tensors_of import kept_tensors, overlap
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
    assert "makes anew, or does not own" in capture(model, x, verify=verify).captured_by.reason
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


class Writing(Pasted):
    """Writes to a parameter."""

    def __init__(self, write: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.average, self.write = nn.Parameter(torch.full((6,), 2.0), requires_grad=False), write

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        self.write(self, first.detach())
        out: Tensor = self.head(torch.cat([first - self.average, self.second(x)], 1))
        return out


def decay(model: Any, x: Tensor) -> None:
    with torch.no_grad():
        model.average.mul_(0.9)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "write",
    [
        lambda model, x: model.average.clamp_(max=1.5),
        lambda model, x: model.average.clamp_(max=2.5),  # changes nothing, yet
        lambda model, x: model.average.data.clamp_(max=1.5),
        lambda model, x: model.average.data.lerp_(x.mean(0), 0.1),
        lambda model, x: model.average.copy_(model.average),
        decay,
    ],
    ids=["in place", "as it is", "data", "average", "itself", "no_grad"],
)
def test_a_model_that_writes_to_its_parameters_is_refused_and_stays_as_it_is(write: Any, verify: bool) -> None:
    model, x = Writing(write), torch.rand(4, 5)
    with pytest.raises(UserError, match=r"writes?.* to its parameter 'average' in forward\(\)"):
        graphprune.compile(model, x, sparsity=0.3, criterion="l1-norm", verify=verify)
    assert (model.average == 2).all()


@pytest.mark.parametrize("verify", [True, False])
def test_what_tracing_writes_to_parameters_is_gone_after_it(verify: bool) -> None:
    model = Writing(lambda model, x: [parameter.data.clamp_(max=1.5) for parameter in model.parameters()])
    with suppress(CaptureError):  # where it is compared: the graph does not clamp
        capture(model, torch.rand(4, 5), verify=verify)
    assert (model.average == 2).all()


@pytest.mark.parametrize("verify", [True, False])
def test_a_parameter_whose_data_is_replaced_is_not_taken_for_one_that_is_not(verify: bool) -> None:
    def write(model: Any, x: Tensor) -> None:
        model.average.data = model.average.data.clamp(max=2.5)

    with pytest.raises(CaptureError, match=r"\(average\)\.data is replaced, which a graph does not show"):
        capture(Writing(write), torch.rand(4, 5), verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_writes_to_parameters_in_training_leave_the_users_model_alone(verify: bool) -> None:
    model, x = Writing(lambda model, x: decay(model, x) if model.training else None), torch.rand(4, 5)
    compiled = graphprune.compile(model, x, sparsity=0.3, criterion="l1-norm", verify=verify)
    assert compiled.report.achieved["channels"] > 0.2 and (model.average == 2).all()


def test_what_hooks_write_in_training_leaves_the_users_model_alone() -> None:
    model, x = Pasted(), torch.rand(4, 5)
    model.first.register_forward_pre_hook(
        lambda layer, args: layer.weight.data.clamp_(-0.01, 0.01) if layer.training else None
    )
    before = model.first.weight.clone()
    capture(model, x)
    assert torch.equal(model.first.weight, before)


@pytest.mark.parametrize("verify", [True, False])
def test_parameters_of_a_type_of_their_own_have_their_own_memory(verify: bool) -> None:
    class Marked(Tensor):
        pass

    model = Writing(lambda model, x: model.average.data.clamp_(max=1.5))
    model.average = nn.Parameter(torch.full((6,), 2.0).as_subclass(Marked), requires_grad=False)
    with suppress(UserError):
        graphprune.compile(model, torch.rand(4, 5), sparsity=0.3, criterion="l1-norm", verify=verify)
    assert (model.average == 2).all()


def test_a_sparse_parameter_that_nothing_reads() -> None:
    model = Pasted()
    model.table = nn.Parameter(torch.eye(3).to_sparse())
    assert graphprune.compile(model, torch.rand(4, 5), sparsity=0.3, criterion="l1-norm").report.achieved["channels"]


def test_a_state_that_the_model_keeps_for_itself_may_be_a_view() -> None:
    norm = nn.BatchNorm2d(8)
    model: Any = nn.Sequential(nn.Conv2d(2, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 3, 3))
    assert norm.running_mean is not None
    model.best, model.rows = model.state_dict(), norm.running_mean.view(1, 8)
    assert capture(model, torch.rand(2, 2, 8, 8)).captured_by.route == "torch.fx"


def bytes_of(tensor: Tensor) -> list[int]:
    """The places of all bytes of a tensor in its memory, one by one."""
    places = [int(tensor.storage_offset())]
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = [place + step * int(stride) for place in places for step in range(int(size))]
    size = tensor.element_size()
    return [place * size + byte for place in places for byte in range(size)]


@given(st.data())
def test_tensors_overlap_where_they_have_a_byte_in_common(data: st.DataObject) -> None:
    memory, views = torch.zeros(48, dtype=torch.uint8), []
    for _ in range(2):
        typed = memory.view(data.draw(st.sampled_from([torch.uint8, torch.int16, torch.float32])))
        sizes = data.draw(st.lists(st.integers(1, 4), max_size=3))
        strides = [data.draw(st.integers(0, 5)) for _ in sizes]
        reach = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        assume(reach < len(typed))
        views.append(typed.as_strided(sizes, strides, data.draw(st.integers(0, len(typed) - 1 - reach))))
    first, second = map(bytes_of, views)
    in_common, lies_on_itself = bool({*first} & {*second}), len({*first}) < len(first)
    assert overlap(*views) == in_common or (lies_on_itself and overlap(*views))


def test_what_has_columns_of_one_memory_is_written_to() -> None:
    columns = torch.zeros(4, 12)
    model = Parts("", write=lambda model, x: model.part.copy_(x))
    model.part, model.plain = columns[:, :6], columns[:, 6:]
    assert capture(model, torch.rand(4, 5)).captured_by.route == "torch.fx"


class Slotted:
    """Holds a tensor without a dict."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_tensors_in_any_container_are_kept() -> None:
    model: Any = Pasted()
    model.queue, model.slotted, model.table = deque([torch.ones(1)]), Slotted(torch.ones(2)), {1: {"1": torch.ones(3)}}
    paths = {name: len(tensor) for name, tensor in kept_tensors(model).items() if tensor.dim() == 1}
    assert paths | {"queue.0": 1, "slotted.tensor": 2, "table.1.1": 3, "first.bias": 6} == paths


def test_a_write_through_a_view_of_a_parameter_while_tracing() -> None:
    class Decaying(Pasted):
        def __init__(self) -> None:
            super().__init__()
            self.row = self.first.weight.data[:, 0]

        def forward(self, x: Tensor) -> Tensor:
            self.row.mul_(0.5)
            out: Tensor = self.head(torch.cat([self.first(x), self.second(x)], 1))
            return out

    with pytest.raises(CaptureError, match=r"writes to 'row', which shares memory with 'first\.weight'"):
        capture(Decaying(), torch.rand(4, 5))


def test_what_is_computed_is_no_data_of_a_tensor() -> None:
    """The process died."""

    class Made(Pasted):
        def forward(self, x: Tensor) -> Tensor:
            made = nn.Linear(5, 6)
            made.weight.data = self.first.weight * 2
            out: Tensor = self.head(torch.cat([made(x), self.second(x)], 1))
            return out

    with pytest.raises(CaptureError, match="is assigned to the data of a tensor"):
        capture(Made(), torch.rand(4, 5))
    assert "data" not in vars(Tensor)
