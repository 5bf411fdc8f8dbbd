"""The module that a user trains takes on the next network: optimizers, masks and gradients follow at once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.optim import SGD, AdamW, Optimizer

from graphprune.errors import InputError
from graphprune.program.surgery import slice_tensors
from graphprune.program.tensors import Kept
from graphprune.training.adoption import adopt
from graphprune.training.masks import HeldMasks
from graphprune.training.optimizer import Replaced
from tests.small_models import Mlp

LEFT = torch.tensor([0, 2, 3, 6])

KEPT: Kept = {("fc1.weight", 0): LEFT, ("fc1.bias", 0): LEFT, ("fc2.weight", 1): LEFT}
"""Half of the first hidden layer."""

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: AdamW(parameters, lr=0.1, weight_decay=0.1),
}

X = torch.linspace(-2, 2, 30, dtype=torch.float64).view(6, 5)


def compact_of(module: fx.GraphModule) -> fx.GraphModule:
    compact = copy.deepcopy(module)
    slice_tensors(compact, KEPT)
    return compact


def masks() -> dict[str, Tensor]:
    """Live weights of two layers of the compact network, half of each."""
    return {"fc1.weight": torch.arange(20).view(4, 5) % 2 == 0, "head.weight": torch.arange(18).view(3, 6) % 3 > 0}


def dense() -> fx.GraphModule:
    return fx.symbolic_trace(Mlp(activation=torch.tanh).double())


def train(module: nn.Module, optimizer: Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        module(X).square().mean().backward()
        optimizer.step()


def adopted(module: fx.GraphModule, *optimizers: Optimizer, replaced: Replaced | None = None) -> fx.GraphModule:
    return adopt(module, compact_of(module), KEPT, masks(), optimizers, replaced or Replaced())


def masked(module: nn.Module) -> nn.Module:
    """A plain copy with zeros in the place of dead weights."""
    again = copy.deepcopy(module)
    with torch.no_grad():
        for name, mask in masks().items():
            again.get_parameter(name).mul_(mask)
    return again


def test_the_module_is_the_compact_one_with_its_masks_and_what_it_was_comes_back() -> None:
    module = dense()
    expected, former_output = masked(compact_of(module))(X), module(X)
    former = adopted(module)
    assert torch.equal(module(X), expected)
    assert torch.equal(former(X), former_output) and former is not module
    assert [tuple(parameter.shape) for parameter in module.parameters()] == [
        (4, 5), (4,), (6, 4), (6,), (3, 6), (3,),
    ]  # fmt: skip


def test_only_the_compact_module_is_held_at_zero() -> None:
    module = dense()
    former = adopted(module)
    hooks = [
        [hook for hook in each._forward_pre_hooks.values() if isinstance(hook, HeldMasks)] for each in (module, former)
    ]
    assert [len(each) for each in hooks] == [1, 0]
    assert {name: mask.tolist() for name, mask in hooks[0][0].masks.items()} == {
        name: mask.tolist() for name, mask in masks().items()
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_that_of_the_masked_network_with_sliced_state(name: str) -> None:
    """Against a network of its own, whose optimizer gets the state by hand and whose weights are masked by hand."""
    module = dense()
    optimizer = OPTIMIZERS[name](module.parameters())
    train(module, optimizer)
    twin = masked(compact_of(module))
    their_optimizer = OPTIMIZERS[name](twin.parameters())
    states = {each: optimizer.state[parameter] for each, parameter in module.named_parameters()}
    for each, parameter in twin.named_parameters():
        live = masks().get(each, torch.ones(parameter.shape, dtype=torch.bool))
        for key, value in states[each].items():
            if isinstance(value, Tensor) and value.dim():
                for (owner, dim), indices in KEPT.items():
                    value = value.index_select(dim, indices) if owner == each else value
                their_optimizer.state[parameter][key] = value * live
            else:
                their_optimizer.state[parameter][key] = copy.deepcopy(value)
    adopted(module, optimizer)
    for _ in range(3):
        train(module, optimizer, 1)
        their_optimizer.zero_grad()
        twin(X).square().mean().backward()
        for each, mask in masks().items():
            gradient = twin.get_parameter(each).grad
            assert gradient is not None
            gradient.mul_(mask)
        their_optimizer.step()
        for each, parameter in twin.named_parameters():
            # the same operations in double precision, with zeros in other places
            torch.testing.assert_close(module.get_parameter(each), parameter, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_weights_stay_zero_in_training(name: str) -> None:
    module = dense()
    optimizer = OPTIMIZERS[name](module.parameters())
    train(module, optimizer)
    adopted(module, optimizer)
    before = {each: module.get_parameter(each).detach().clone() for each in masks()}
    train(module, optimizer, 3)
    for each, mask in masks().items():
        assert not module.get_parameter(each)[~mask].any()
        assert bool((module.get_parameter(each) != before[each])[mask].any()), "while the others are trained"
        state = [value for value in optimizer.state[module.get_parameter(each)].values() if isinstance(value, Tensor)]
        assert not any(value[~mask].any() for value in state if value.shape == mask.shape)


def test_waiting_gradients_lose_what_died() -> None:
    module = dense()
    optimizer = SGD(module.parameters(), lr=0.1)
    module(X).square().mean().backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None
    }
    adopted(module, optimizer)
    for name, mask in masks().items():
        expected = gradients[name].index_select(0, LEFT) if name == "fc1.weight" else gradients[name]
        found = module.get_parameter(name).grad
        assert found is not None and torch.equal(found, expected * mask)


def test_several_optimizers_follow() -> None:
    module = dense()
    weights = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    biases = [parameter for parameter in module.parameters() if parameter.dim() == 1]
    optimizers = [SGD(weights, lr=0.1, momentum=0.9), AdamW(biases)]
    for optimizer in optimizers:
        train(module, optimizer)
    adopted(module, *optimizers)
    held = [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in module.parameters()}


def test_an_optimizer_that_is_not_told_is_refused_and_one_that_is_told_is_not() -> None:
    module, replaced = dense(), Replaced()
    told, forgotten = SGD(module.parameters(), lr=0.1), SGD(module.parameters(), lr=0.1)
    kept_apart = SGD(module.get_submodule("head").parameters(), lr=0.1)
    adopted(module, told, replaced=replaced)
    train(module, told)
    train(module, kept_apart)  # what it holds has kept its shape
    with pytest.raises(InputError, match=r"the SGD holds 3 parameters that an earlier step\(\)"):
        train(module, forgotten)
    del forgotten
    gc.collect()


def test_a_second_network_takes_the_place_of_the_first() -> None:
    module = dense()
    optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
    train(module, optimizer)
    adopted(module, optimizer)
    train(module, optimizer)
    kept: Kept = {
        ("fc2.weight", 0): torch.arange(5),
        ("fc2.bias", 0): torch.arange(5),
        ("head.weight", 1): torch.arange(5),
    }
    smaller = copy.deepcopy(module)
    slice_tensors(smaller, kept)
    later = {"fc1.weight": torch.ones(4, 5, dtype=torch.bool).tril()}
    adopt(module, smaller, kept, later, [optimizer], Replaced())
    train(module, optimizer)
    assert not module.get_parameter("fc1.weight")[~later["fc1.weight"]].any()
    assert bool(module.get_parameter("head.weight").all()), "masks of the network before are let go"
    assert len(module._forward_pre_hooks) == 1


def test_without_masks_nothing_is_held() -> None:
    module = dense()
    expected = compact_of(module)(X)
    adopt(module, compact_of(module), KEPT, {}, [], Replaced())
    assert torch.equal(module(X), expected) and not module._forward_pre_hooks
