"""A module that becomes another one: the same object, with the other one's graph, values and layers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.optim import SGD

from graphprune.program.surgery import copy_sharing_tensors
from graphprune.program.tensors import stored_tensors
from graphprune.training.exchange import become, overwrite, own_tensors
from tests.small_models import Chain, Mlp, Residual, images, randomised


class Recurrent(nn.Module):
    """Keeps a list of its parameters beside them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(5, width, num_layers=2, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0])
        return out


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class Leaves(fx.Tracer):
    """Takes recurrent layers as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.RNNBase) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, Leaves().trace(model))


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- what becomes of them ---------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_each_computes_what_the_other_one_did(widths: tuple[int, int], others: tuple[int, int]) -> None:
    module, other = traced(Mlp(widths)), traced(Mlp(others, torch.tanh))
    x = torch.randn(3, 5)
    expected, theirs = module(x), other(x)
    contents, their_contents = values(module), values(other)
    before = dict(module.named_parameters())
    former = become(module, other)
    assert torch.equal(module(x), theirs) and torch.equal(former(x), expected)
    assert same(values(module), their_contents) and same(values(former), contents)
    for name, parameter in module.named_parameters():
        assert (parameter is before[name]) == (contents[name].shape == their_contents[name].shape), name
    assert not {id(each) for each in module.parameters()} & {id(each) for each in former.parameters()}


def test_parameters_that_keep_their_shape_are_the_same_objects_with_other_values() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    before, theirs = dict(module.named_parameters()), values(other)
    become(module, other)
    after = dict(module.named_parameters())
    kept = {name for name in after if after[name] is before[name]}
    assert kept == {"fc2.bias", "head.weight", "head.bias"}
    assert all(torch.equal(after[name], theirs[name]) for name in after)


def test_an_optimizer_and_an_average_go_on_with_what_kept_its_shape() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    head = module.get_parameter("head.weight")
    optimizer = SGD([head], lr=0.5)
    expected = other.get_parameter("head.weight").detach().clone()
    become(module, other)
    module(torch.randn(3, 5)).sum().backward()
    assert head.grad is not None
    expected -= 0.5 * head.grad
    optimizer.step()
    torch.testing.assert_close(module.get_parameter("head.weight").detach(), expected, rtol=0, atol=0)


def test_gradients_stay_with_their_parameters() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    module(torch.randn(3, 5)).sum().backward()
    gradient = module.get_parameter("head.weight").grad
    former = become(module, other)
    assert module.get_parameter("head.weight").grad is gradient is not None
    assert module.get_parameter("fc1.weight").grad is None, "it is a new one"
    assert former.get_parameter("fc1.weight").grad is not None and former.get_parameter("head.weight").grad is None


def test_whether_parameters_are_trained_stays_with_them() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    module.get_parameter("head.weight").requires_grad_(False)
    other.get_parameter("fc1.weight").requires_grad_(False)
    become(module, other)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"fc1.bias", "fc2.weight", "fc2.bias", "head.bias"}


def test_a_backward_pass_from_before_is_refused() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    loss = module(torch.randn(3, 5)).sum()
    become(module, other)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("make", [Residual, Chain])
def test_buffers_come_along(make: Any) -> None:
    module, other = traced(randomised(make())), traced(randomised(make()))
    buffers, x = {name: buffer.clone() for name, buffer in other.named_buffers()}, images()
    expected = other.eval()(x)
    module.eval()
    former = become(module, other)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())
    assert torch.equal(module(x), expected)
    assert not {id(each) for each in module.buffers()} & {id(each) for each in former.buffers()}


def test_of_other_types_nothing_is_kept() -> None:
    module, other = traced(Mlp()), traced(Mlp().double())
    before = dict(module.named_parameters())
    former = become(module, other)
    assert module(torch.randn(2, 5).double()).dtype == torch.double
    assert former(torch.randn(2, 5)).dtype == torch.float
    assert not any(parameter is before[name] for name, parameter in module.named_parameters())


def test_parameters_that_both_have_stay_in_both() -> None:
    model = Mlp()
    module, other = traced(model), traced(model)
    before, contents = dict(module.named_parameters()), values(module)
    former = become(module, other)
    for each in (module, former):
        assert all(parameter is before[name] for name, parameter in each.named_parameters())
    assert same(values(module), contents)


# --- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_module_stays(training: bool) -> None:
    module, other = traced(Chain()), traced(Chain())
    module.train(training)
    other.train(not training)
    become(module, other)
    assert module.training is training


def test_hooks_of_the_module_stay_with_it() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    told: list[str] = []
    module.register_forward_hook(lambda *arguments: told.append("after"))
    module.register_forward_pre_hook(lambda *arguments: told.append("before"))
    handle = other.register_forward_hook(lambda *arguments: told.append("other"))
    former = become(module, other)
    module(torch.randn(2, 5))
    assert told == ["before", "after"]
    former(torch.randn(2, 5))
    assert told == ["before", "after", "other"]
    handle.remove()
    former(torch.randn(2, 5))
    assert told == ["before", "after", "other"], "handles still know where their hooks are"


def test_gradient_hooks_stay_with_parameters_that_keep_their_shape() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    module.get_parameter("head.weight").register_hook(lambda gradient: gradient * 0)
    become(module, other)
    module(torch.randn(3, 5)).sum().backward()
    gradient, bias = module.get_parameter("head.weight").grad, module.get_parameter("head.bias").grad
    assert gradient is not None and not gradient.any()
    assert bias is not None and bias.all()


def test_graphs_know_their_modules() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3), torch.tanh))
    former = become(module, other)
    assert former is other, "the object that the other one was"
    assert module.graph.owning_module is module and former.graph.owning_module is former
    assert "tanh" in {node.name for node in module.graph.nodes} and "tanh" in module.code
    assert "relu" in {node.name for node in former.graph.nodes} and "relu" in former.code
    for each in (module, former):
        each.graph.lint()
        x = torch.randn(2, 5)
        expected = each(x)
        each.recompile()
        assert torch.equal(each(x), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_both_can_be_copied(copied: Any) -> None:
    module, other = traced(Chain(6)), traced(Chain(4))
    former, x = become(module.eval(), other.eval()), images()
    for each in (module, former):
        again = copied(each)
        assert torch.equal(again(x), each(x)) and same(values(again), values(each))


def test_there_and_back() -> None:
    module, other = traced(Mlp((4, 3))), traced(Mlp((2, 3)))
    contents, before = values(module), dict(module.named_parameters())
    again = become(module, become(module, other))
    assert same(values(module), contents) and again is other
    assert all(parameter is before[name] for name, parameter in module.named_parameters())


# --- layers that know their parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, 3])
def test_recurrent_layers_compute_with_the_parameters_that_they_show(width: int) -> None:
    module, other = traced(Recurrent()), traced(Recurrent(width))
    x = torch.randn(2, 6, 5)
    expected, theirs = module(x), other(x)
    former = become(module, other)
    for each in (module, former):  # before a forward pass, which would put the list right by itself
        layer = each.get_submodule("rnn")
        assert isinstance(layer, nn.GRU)
        names = [name for names in layer.all_weights for name in names]
        own = {id(parameter) for parameter in layer.parameters()}
        assert {id(weight) for weight in names} == {id(weight) for weight in layer._flat_weights} == own
    assert torch.equal(module(x), theirs) and torch.equal(former(x), expected)
    with torch.no_grad():
        for parameter in module.get_submodule("rnn").parameters():
            parameter.zero_()
    assert torch.equal(module(x), module.get_parameter("head.bias").expand(2, 6, 3)), "an optimizer's steps are seen"


def test_ties_stay_ties() -> None:
    module, other = traced(Tied()), traced(Tied())
    weight, theirs = module.get_parameter("first.weight"), other.get_parameter("first.weight").detach().clone()
    former = become(module, other)
    for each in (module, former):
        assert each.get_parameter("first.weight") is each.get_parameter("second.weight")
    assert module.get_parameter("first.weight") is weight and torch.equal(weight, theirs)


# --- tensors of its own, and values of another ------------------------------------------------------------------------


def sharing(model: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Two graph modules with the same tensors."""
    first = fx.symbolic_trace(model)
    return first, copy_sharing_tensors(first)


@pytest.mark.parametrize("factory", [lambda: randomised(Residual()), Recurrent, Tied])
def test_a_module_gets_tensors_of_its_own_in_the_same_memory(factory: Callable[[], nn.Module]) -> None:
    former, module = sharing(factory())
    before = {name: tensor.clone() for name, tensor in stored_tensors(former).items()}
    own_tensors(former, module)
    theirs = {id(tensor) for tensor in stored_tensors(module).values()}
    for name, tensor in stored_tensors(former).items():
        assert id(tensor) not in theirs and torch.equal(tensor, before[name])
        shares = tensor.data_ptr() == stored_tensors(module)[name].data_ptr()
        assert shares == isinstance(tensor, nn.Parameter), name  # buffers are small, and written to in place
    assert stored_tensors(former).keys() == before.keys()  # tied parameters stay tied


def test_recurrent_layers_read_their_own_parameters() -> None:
    former, module = sharing(Recurrent())
    own_tensors(former, module)
    inputs = torch.randn(2, 4, 5)
    expected = former(inputs)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter)  # memory of its own, as when it is handed out
    assert torch.equal(former(inputs), expected)


def test_values_are_overwritten_and_tensors_stay() -> None:
    torch.manual_seed(0)
    module, other = fx.symbolic_trace(randomised(Residual())), fx.symbolic_trace(randomised(Residual()))
    before = stored_tensors(module)
    overwrite(module, other)
    assert all(tensor is before[name] for name, tensor in stored_tensors(module).items())
    values = stored_tensors(other)
    assert all(torch.equal(tensor, values[name]) for name, tensor in stored_tensors(module).items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
