"""Optimizers follow parameters that shrink: a step on what is left is what is left of a step on the whole."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop

from graphprune.errors import InputError
from graphprune.program.tensors import Kept
from graphprune.training.optimizer import Replaced, clear_dead, clear_gradients, follow, followers

Parameters = dict[str, nn.Parameter]

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1),
    "momentum": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: Adam(parameters, lr=0.1),
    "amsgrad": lambda parameters: Adam(parameters, lr=0.1, amsgrad=True, foreach=True),
    "adamw": lambda parameters: AdamW(parameters, lr=0.1, weight_decay=0.1),
    "rmsprop": lambda parameters: RMSprop(parameters, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda parameters: Adagrad(parameters, lr=0.1),
}
"""Those that treat each weight by itself, so that steps on slices are slices of steps."""

ROUNDING = 1e-12
"""Relative, of a few operations in double precision, which may be grouped in another way in tensors of another size."""

SHAPES = {"conv": (5, 4, 2), "bias": (5,), "linear": (3, 4), "scale": ()}


def parameters_of(shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Parameters:
    return {name: nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in shapes.items()}


def with_gradients(parameters: Parameters) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)


def stepped(optimizer: Optimizer, parameters: Parameters, times: int = 2) -> None:
    for _ in range(times):
        with_gradients(parameters)
        optimizer.step()


def cut(tensor: Tensor, name: str, kept: Kept) -> Tensor:
    """The oracle: plain indexing, of dims that are there."""
    for (owner, dim), indices in kept.items():
        if owner == name and tensor.dim() > dim and tensor.shape[dim] > 1:
            tensor = tensor[(slice(None),) * dim + (indices,)]
    return tensor


def shrunk(before: Parameters, kept: Kept) -> Parameters:
    """Parameters after a prune: new ones where something went."""
    names = {name for name, _ in kept}
    return {
        name: nn.Parameter(cut(parameter.detach(), name, kept).clone()) if name in names else parameter
        for name, parameter in before.items()
    }


KEPT: Kept = {
    ("conv", 0): torch.tensor([0, 3, 4]),
    ("conv", 1): torch.tensor([1]),
    ("bias", 0): torch.tensor([0, 3, 4]),
    ("linear", 1): torch.tensor([0, 2]),
}


def held_by(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: torch.as_tensor(value).clone() for key, value in state.items() if value is not None}


# --- following --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_after_a_prune_is_what_is_left_of_a_step_before_it(name: str) -> None:
    before = parameters_of()
    optimizer = OPTIMIZERS[name](before.values())
    stepped(optimizer, before)
    whole = {each: nn.Parameter(parameter.detach().clone()) for each, parameter in before.items()}
    dense = OPTIMIZERS[name](whole.values())
    dense.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    after = shrunk(before, KEPT)
    follow(optimizer, before, after, KEPT)
    for _ in range(3):
        with_gradients(whole)
        for each, parameter in after.items():
            gradient = whole[each].grad
            assert gradient is not None
            parameter.grad = cut(gradient, each, KEPT).clone()
        dense.step()
        optimizer.step()
        for each, parameter in after.items():
            torch.testing.assert_close(
                parameter.detach(), cut(whole[each].detach(), each, KEPT), rtol=ROUNDING, atol=ROUNDING
            )


@st.composite
def cuts(draw: st.DrawFn) -> Kept:
    """Kept indices of any dims; at least one of each."""
    keys = draw(st.sets(st.sampled_from([(name, dim) for name, shape in SHAPES.items() for dim in range(len(shape))])))
    kept: Kept = {}
    for name, dim in sorted(keys):
        indices = draw(st.sets(st.integers(0, SHAPES[name][dim] - 1), min_size=1))
        kept[name, dim] = torch.tensor(sorted(indices))
    return kept


@pytest.mark.parametrize("name", [*OPTIMIZERS, "adafactor"])
@settings(max_examples=30)
@given(kept=cuts())
def test_state_is_sliced_as_its_parameter(name: str, kept: Kept) -> None:
    makers = OPTIMIZERS | {"adafactor": lambda parameters: Adafactor(parameters)}
    before = parameters_of()
    optimizer = makers[name](before.values())
    stepped(optimizer, before)
    states = {each: tensors_in(optimizer.state[parameter]) for each, parameter in before.items()}
    after = shrunk(before, kept)
    follow(optimizer, before, after, kept)
    assert set(optimizer.state) <= set(after.values()), "nothing is left of parameters that went"
    for each, parameter in after.items():
        found = tensors_in(optimizer.state[parameter])
        assert found.keys() == states[each].keys()
        for key, value in states[each].items():
            assert torch.equal(found[key], cut(value, each, kept)), (each, key)


def test_groups_keep_their_options_and_order() -> None:
    before = parameters_of()
    groups = [
        {"params": [before["linear"], before["conv"]], "lr": 0.5, "weight_decay": 0.1},
        {"params": [before["scale"], before["bias"]], "momentum": 0.5},
    ]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    lists = [group["params"] for group in optimizer.param_groups]
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    after = shrunk(before, KEPT)
    follow(optimizer, before, after, KEPT)
    expected = [[after["linear"], after["conv"]], [after["scale"], after["bias"]]]
    for group, former, parameters, wanted in zip(optimizer.param_groups, lists, expected, options, strict=True):
        assert list(map(id, group["params"])) == list(map(id, parameters))
        assert group["params"] is former, "the list itself, which some optimizers hold"
        assert {key: value for key, value in group.items() if key != "params"} == wanted


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_has_not_stepped_yet(name: str) -> None:
    before = parameters_of()
    optimizer, fresh = OPTIMIZERS[name](before.values()), OPTIMIZERS[name](parameters_of().values())
    after = shrunk(before, KEPT)
    follow(optimizer, before, after, KEPT)
    assert list(map(id, held_by(optimizer))) == list(map(id, after.values()))
    stepped(optimizer, after)
    stepped(fresh, dict(zip(SHAPES, held_by(fresh), strict=True)))
    assert {key for state in optimizer.state.values() for key in state} == {
        key for state in fresh.state.values() for key in state
    }


def test_what_did_not_shrink_is_left_as_it_is() -> None:
    before = parameters_of()
    optimizer = Adam(before.values())
    stepped(optimizer, before)
    state = optimizer.state[before["scale"]]
    contents = dict(state)
    follow(optimizer, before, shrunk(before, KEPT), KEPT)
    assert optimizer.state[before["scale"]] is state
    assert all(state[key] is value for key, value in contents.items())


def test_parameters_of_other_models_are_left_as_they_are() -> None:
    before, other = parameters_of(), nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
    optimizer = SGD([*before.values(), other], lr=0.1, momentum=0.9)
    stepped(optimizer, before | {"other": other})
    momentum = optimizer.state[other]["momentum_buffer"]
    follow(optimizer, before, shrunk(before, KEPT), KEPT)
    assert held_by(optimizer)[-1] is other and optimizer.state[other]["momentum_buffer"] is momentum


def test_an_optimizer_of_some_of_the_parameters_gets_no_others() -> None:
    before = parameters_of()
    optimizer = SGD([before["bias"]], lr=0.1, momentum=0.9)
    stepped(optimizer, before)
    after = shrunk(before, KEPT)
    follow(optimizer, before, after, KEPT)
    assert held_by(optimizer)[0] is after["bias"] and len(held_by(optimizer)) == len(optimizer.state) == 1


def test_waiting_gradients_are_sliced_too() -> None:
    before = parameters_of()
    optimizer = SGD([before["conv"]], lr=0.1)
    with_gradients(before)
    before["bias"].grad = None
    gradients = {name: parameter.grad for name, parameter in before.items()}
    after = shrunk(before, KEPT)
    follow(optimizer, before, after, KEPT)
    for name, parameter in after.items():
        gradient = gradients[name]
        if gradient is None:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and torch.equal(parameter.grad, cut(gradient, name, KEPT))


def test_state_of_other_dims_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    before = parameters_of()
    optimizer = Adam(before.values())
    stepped(optimizer, before)
    optimizer.state[before["conv"]]["exp_avg_sq"] = torch.zeros(5, 4)
    after = shrunk(before, KEPT)
    follow(optimizer, before, after, KEPT)
    assert after["conv"] not in optimizer.state and after["bias"] in optimizer.state
    assert caplog.messages == [
        "optimizer state 'exp_avg_sq' of conv has shape (5, 4), the parameter (5, 4, 2): the state of conv is dropped"
    ]
    stepped(optimizer, after)


def test_two_rounds_are_one() -> None:
    first, second = {("linear", 1): torch.tensor([0, 2, 3])}, {("linear", 1): torch.tensor([0, 2])}
    before = parameters_of()
    optimizer = Adam(before.values())
    stepped(optimizer, before)
    moments = optimizer.state[before["linear"]]["exp_avg"].clone()
    between = shrunk(before, first)
    follow(optimizer, before, between, first)
    after = shrunk(between, second)
    follow(optimizer, between, after, second)
    assert torch.equal(optimizer.state[after["linear"]]["exp_avg"], moments[:, [0, 3]])


# --- dead weights -----------------------------------------------------------------------------------------------------


def masks_of(parameters: Parameters, *names: str) -> dict[str, Tensor]:
    return {name: torch.rand(parameters[name].shape) < 0.5 for name in names}


@pytest.mark.parametrize("name", [each for each in OPTIMIZERS if each != "sgd"])
def test_what_is_remembered_of_dead_weights_is_cleared(name: str) -> None:
    parameters = parameters_of()
    optimizer = OPTIMIZERS[name](parameters.values())
    stepped(optimizer, parameters)
    states = {each: tensors_in(optimizer.state[parameter]) for each, parameter in parameters.items()}
    masks = masks_of(parameters, "conv", "linear")
    clear_dead(optimizer, parameters, masks)
    for each, parameter in parameters.items():
        for key, value in tensors_in(optimizer.state[parameter]).items():
            live = masks.get(each) if value.dim() else None
            assert torch.equal(value, states[each][key] if live is None else states[each][key] * live), (each, key)


def test_moments_of_dead_and_live_weights_together_stay() -> None:
    parameters = parameters_of()
    optimizer = Adafactor(parameters.values())
    stepped(optimizer, parameters)
    state = tensors_in(optimizer.state[parameters["linear"]])
    assert {tuple(value.shape) for value in state.values()} == {(), (3, 1), (1, 4)}
    clear_dead(optimizer, parameters, masks_of(parameters, "linear"))
    found = tensors_in(optimizer.state[parameters["linear"]])
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_overflowed_for_dead_weights_is_cleared(value: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.tensor([value, 1.0])
    optimizer.step()
    clear_dead(optimizer, {"w": weight}, {"w": torch.tensor([False, True])})
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [0.0, 1.0]


def test_clearing_makes_no_state_where_there_is_none() -> None:
    parameters = parameters_of()
    optimizer = Adam(list(parameters.values())[1:])
    clear_dead(optimizer, parameters, masks_of(parameters, "conv", "bias"))
    assert not optimizer.state


@pytest.mark.parametrize("value", [1.0, torch.inf, -torch.inf, torch.nan])
def test_gradients_of_dead_weights_are_cleared(value: float) -> None:
    parameters = parameters_of()
    with_gradients(parameters)
    masks = masks_of(parameters, "conv", "linear", "bias")
    gradient = parameters["conv"].grad
    assert gradient is not None
    gradient[~masks["conv"]] = value
    parameters["bias"].grad = None
    before = {name: None if each.grad is None else each.grad.clone() for name, each in parameters.items()}
    clear_gradients(parameters, masks)
    assert parameters["conv"].grad is gradient and parameters["bias"].grad is None
    for name, former in before.items():
        found = parameters[name].grad
        if former is not None:
            expected = former.where(masks[name], 0) if name in masks else former
            assert found is not None and torch.equal(found, expected)


# --- optimizers that are given ----------------------------------------------------------------------------------------


def test_one_several_or_no_optimizers() -> None:
    module = nn.Linear(3, 2)
    first, second = SGD(module.parameters(), lr=0.1), Adam([module.bias])
    assert followers(None, module, Replaced()) == followers([], module, Replaced()) == []
    assert followers(first, module, Replaced()) == [first]
    for kind in (list, tuple):
        assert followers(kind([first, second]), module, Replaced()) == [first, second]


@pytest.mark.parametrize(
    ("wrong", "got"),
    [(SGD, "SGD, the class"), (3, "int"), ("adam", "str"), ({"a": 1}, "dict"), (nn.Linear(1, 1).parameters, "method")],
)
def test_what_is_no_optimizer(wrong: Any, got: str) -> None:
    module = nn.Linear(3, 2)
    for given_ in (wrong, [SGD(module.parameters(), lr=0.1), wrong]):
        with pytest.raises(InputError, match=rf"^optimizer: expected a torch optimizer, .+; got {got}$"):
            followers(given_, module, Replaced())


def test_an_optimizer_of_something_else() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"^the optimizer holds no parameter of pruner\.module; create it from"):
        followers(SGD(nn.Linear(3, 2).parameters(), lr=0.1), module, Replaced())
    partly = SGD([module.bias, *nn.Linear(3, 2).parameters()], lr=0.1)
    assert followers(partly, module, Replaced()) == [partly]


# --- optimizers that are left behind ----------------------------------------------------------------------------------

REPLACED = "that an earlier step() of the Pruner has replaced by smaller ones without it"


@pytest.fixture
def replaced() -> Iterator[Replaced]:
    """Watches nothing any more in the end, so that other tests do not wait for it."""
    yield Replaced()
    gc.collect()


@pytest.mark.parametrize(
    ("names", "told"),
    [(["bias"], "1 parameter "), (["bias", "conv"], "2 parameters "), (["bias", "scale"], "1 parameter ")],
)
def test_steps_with_parameters_that_were_replaced_are_refused(replaced: Replaced, names: list[str], told: str) -> None:
    before = parameters_of()
    optimizer = SGD([before[name] for name in names], lr=0.1)
    stepped(optimizer, before)
    values = {name: parameter.detach().clone() for name, parameter in before.items()}
    replaced.note(before, shrunk(before, KEPT))
    with_gradients(before)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            optimizer.step()
        assert str(caught.value).startswith(f"the SGD holds {told}{REPLACED}")
        with pytest.raises(InputError, match=r"^the SGD holds"):
            replaced.refuse(optimizer)
    assert all(torch.equal(parameter, values[name]) for name, parameter in before.items()), "nothing was trained"


def test_optimizers_of_what_stayed_go_on(replaced: Replaced) -> None:
    before = parameters_of()
    after = shrunk(before, KEPT)
    told, apart = SGD(before.values(), lr=0.1), SGD([before["scale"]], lr=0.1)
    follow(told, before, after, KEPT)
    replaced.note(before, after)
    for optimizer in (told, apart, SGD(parameters_of().values(), lr=0.1)):
        replaced.refuse(optimizer)
        with_gradients(after)
        optimizer.step()


def test_parameters_that_are_gone_altogether_are_replaced_too(replaced: Replaced) -> None:
    before = parameters_of()
    optimizer = SGD([before["bias"]], lr=0.1)
    replaced.note(before, {name: before[name] for name in before if name != "bias"})
    with pytest.raises(InputError, match=r"^the SGD holds 1 parameter that"):
        replaced.refuse(optimizer)


def test_an_optimizer_is_looked_at_again_after_each_round(replaced: Replaced) -> None:
    first = {("conv", 0): torch.tensor([0, 3, 4])}
    before = parameters_of()
    between = shrunk(before, first)
    optimizer = SGD([before["bias"]], lr=0.1)
    replaced.note(before, between)
    stepped(optimizer, before)
    after = shrunk(between, {("bias", 0): torch.tensor([0])})
    replaced.note(between, after)
    with pytest.raises(InputError, match="1 parameter that"):
        stepped(optimizer, before)


def test_an_optimizer_is_looked_at_again_with_more_parameters(replaced: Replaced) -> None:
    before = parameters_of()
    optimizer = SGD([before["scale"]], lr=0.1)
    replaced.note(before, shrunk(before, KEPT))
    stepped(optimizer, before)
    optimizer.add_param_group({"params": [before["bias"]]})
    with pytest.raises(InputError, match="1 parameter that"):
        stepped(optimizer, before)


def test_nothing_is_refused_any_more_once_nobody_holds_what_was_replaced(replaced: Replaced) -> None:
    before = parameters_of()
    replaced.note(before, shrunk(before, KEPT))
    assert not replaced.is_over
    del before
    gc.collect()
    assert replaced.is_over
    others = parameters_of()
    stepped(SGD(others.values(), lr=0.1), others)


def test_a_round_that_replaces_nothing_is_over_at_once(replaced: Replaced) -> None:
    before = parameters_of()
    replaced.note(before, dict(before))
    assert replaced.is_over
    replaced.refuse(SGD(before.values(), lr=0.1))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_know_nothing(replaced: Replaced, copied: Callable[[Replaced], Replaced]) -> None:
    before = parameters_of()
    optimizer = SGD(before.values(), lr=0.1)
    replaced.note(before, shrunk(before, KEPT))
    again = copied(replaced)
    assert again.is_over and not replaced.is_over
    again.refuse(optimizer)


def test_followers_are_none_of_those_left_behind(replaced: Replaced) -> None:
    module = nn.Linear(3, 2)
    optimizer = SGD(module.parameters(), lr=0.1)
    before = dict(module.named_parameters())
    module.weight = nn.Parameter(module.weight.detach()[:, :2].clone())
    replaced.note(before, dict(module.named_parameters()))
    with pytest.raises(InputError, match=r"^the SGD holds 1 parameter that"):
        followers([SGD(module.parameters(), lr=0.1), optimizer], module, replaced)
