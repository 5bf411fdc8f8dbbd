"""Dead weights stay zero, whatever is done with the module: called by functions, trained, edited, moved, copied."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import graphprune
from graphprune.training.masks import hold
from tests.rounds.test_by_weights import BOTH, compiled_of, dead_weights
from tests.small_models import CLASSES, Residual, images, randomised
from tests.test_pruner import batches


def dead_gradients(module: nn.Module, masks: dict[str, Tensor]) -> float:
    """The largest of them; not a number if one is not."""
    found = [module.get_parameter(name).grad for name in masks]
    assert all(gradient is not None for gradient in found)
    return max(float(g[~mask].abs().max()) for g, mask in zip(found, masks.values(), strict=True) if g is not None)


@pytest.mark.parametrize("granularity", BOTH)
def test_values_may_take_the_place_of_parameters_for_one_call(granularity: str) -> None:
    module, inputs = compiled_of(granularity).module.eval(), images(3)
    values = {name: parameter.detach() for name, parameter in module.named_parameters()}
    assert torch.equal(torch.func.functional_call(module, values, (inputs,)), module(inputs))

    def total(values: dict[str, Tensor], one: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(module, values, (one[None],)).sum()
        return output

    of_samples = torch.func.vmap(torch.func.grad(total), in_dims=(None, 0))(values, inputs)
    assert of_samples["conv1.weight"].shape == (3, *values["conv1.weight"].shape)


def replaced(module: Any) -> None:
    module.fc = nn.Linear(module.fc.in_features, CLASSES + 2)


def taken_out(module: Any) -> None:
    module.fc = nn.Identity()


def deleted(module: Any) -> None:
    module.fc = nn.Sequential(nn.Flatten())


def computed(module: Any) -> None:
    parametrizations.weight_norm(module.fc)


@pytest.mark.parametrize("edit", [replaced, taken_out, deleted, computed])
def test_a_layer_may_be_edited(edit: Callable[[Any], None]) -> None:
    compiled = compiled_of("weight")
    assert "fc.weight" in compiled.plan.masks
    module, inputs = compiled.module, images(3)
    edit(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    module(inputs).sum().backward()
    others = {name: mask for name, mask in compiled.plan.masks.items() if name != "fc.weight"}
    assert dead_weights(module, others) == 0 and dead_gradients(module, others) == 0


def assigned(parameter: nn.Parameter) -> None:
    parameter.data = parameter.data + 1


def added(parameter: nn.Parameter) -> None:
    parameter.data.add_(1)


@pytest.mark.parametrize("change", [assigned, added])
def test_changes_that_torch_does_not_count(change: Callable[[nn.Parameter], None]) -> None:
    """As an optimizer does them, or averaged weights: after a backward pass, without a new version."""
    compiled, inputs = compiled_of("weight"), images(3)
    compiled.module(inputs).sum().backward()
    versions = [parameter._version for parameter in compiled.module.parameters()]
    for parameter in compiled.module.parameters():
        change(parameter)
    assert [parameter._version for parameter in compiled.module.parameters()] == versions
    compiled.module(inputs)
    assert dead_weights(compiled.module, compiled.plan.masks) == 0


def test_a_fused_optimizer_with_momentum_from_before() -> None:
    compiled, inputs = compiled_of("weight"), images(3)
    optimizer = torch.optim.SGD(compiled.module.parameters(), lr=0.1, momentum=0.9, fused=True)
    compiled.module(inputs)
    found: list[float] = []
    # before the hook that all optimizers have, which would else leave nothing to see
    optimizer.register_step_post_hook(lambda *_: found.append(dead_weights(compiled.module, compiled.plan.masks)))
    for _ in range(2):
        compiled.module(inputs).sum().backward()
        for parameter in compiled.module.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
        optimizer.step()
        assert dead_weights(compiled.module, compiled.plan.masks) == 0
    assert min(found) > 0.01, "otherwise this tests nothing"


@pytest.mark.parametrize("compiled", [False, True])
def test_an_optimizer_that_does_not_follow_gradients(compiled: bool) -> None:
    """Muon changes whole matrices by what it makes of the gradient; nothing of it is seen after a step."""
    layers = [nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)]
    pruned = graphprune.compile(
        nn.Sequential(*layers), torch.randn(2, 8), sparsity=0.7, granularity="weight", criterion="magnitude"
    )
    optimizer = torch.optim.Muon(pruned.module.parameters(), lr=0.1)
    forward = torch.compile(pruned.module, backend="aot_eager", fullgraph=True) if compiled else pruned.module
    before = {name: value.clone() for name, value in pruned.module.state_dict().items()}
    for _ in range(2):
        forward(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        for name, value in pruned.module.state_dict().items():
            assert not torch.equal(value, before[name])
            assert not bool(value[before[name] == 0].any())


def test_averages_that_are_written_after_a_step() -> None:
    """By way of ``.data``, between a step and the next forward pass."""
    compiled, inputs = compiled_of("weight"), images(3)
    optimizer = torch.optim.SGD(compiled.module.parameters(), lr=0.1)
    for _ in range(2):
        compiled.module(inputs).sum().backward()
        optimizer.step()
        for parameter in compiled.module.parameters():
            parameter.data.copy_(torch.ones_like(parameter))
        compiled.module(inputs)
        assert dead_weights(compiled.module, compiled.plan.masks) == 0


def test_a_step_that_leaves_the_module_alone_may_stand_before_its_backward_pass() -> None:
    module, head = compiled_of("weight").module, nn.Linear(CLASSES, 1)
    optimizer = torch.optim.SGD([*module.parameters(), *head.parameters()], lr=0.1)
    features = module(images(3))
    head(features.detach()).sum().backward()
    optimizer.step()
    head(features).sum().backward()


def test_what_is_not_held_any_more_is_not_undone_after_a_step() -> None:
    module = compiled_of("weight").module
    hold(module, {})
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(bool(parameter.count_nonzero() == parameter.numel()) for parameter in module.parameters())


def test_parameters_can_be_swapped() -> None:
    """As `torch.__future__.set_swap_module_params_on_conversion` has it, which weak references to them forbid."""
    layer, torch_future = hold_of_linear(), torch.__future__
    before = torch_future.get_swap_module_params_on_conversion()
    torch_future.set_swap_module_params_on_conversion(True)
    try:
        layer.zero_grad()
        layer.load_state_dict(nn.Linear(4, 3).state_dict())
    finally:
        torch_future.set_swap_module_params_on_conversion(before)
    layer(torch.randn(2, 4)).sum().backward()
    assert 0 < int(layer.weight.count_nonzero()) < layer.weight.numel()


def test_a_held_module_does_not_wait_for_the_garbage_collector() -> None:
    held = hold_of_linear()
    watched = weakref.ref(held.weight)
    gc.disable()
    try:
        del held
        assert watched() is None
    finally:
        gc.enable()


def hold_of_linear() -> nn.Linear:
    layer = nn.Linear(4, 3)
    hold(layer, {"weight": torch.arange(12).view(3, 4) % 2 == 0})
    layer(torch.randn(2, 4)).sum().backward()
    return layer


def test_gradients_that_overflow_are_zero_too() -> None:
    """0 * inf is no number, and clipping by the norm would spread it."""
    compiled = compiled_of("weight")
    (compiled.module.train()(images(4)) * 1e30 * 1e10).sum().backward()
    assert dead_gradients(compiled.module, compiled.plan.masks) == 0


def test_values_that_are_not_finite_are_undone() -> None:
    compiled = compiled_of("weight")
    with torch.no_grad():
        for parameter in compiled.module.parameters():
            parameter.fill_(float("inf"))
    compiled.module(images(2))
    assert dead_weights(compiled.module, compiled.plan.masks) == 0


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_pickled_as_a_whole_is_held(inside: bool) -> None:
    compiled, stored = compiled_of("mixed"), io.BytesIO()
    torch.save(nn.Sequential(compiled.module) if inside else compiled.module, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False).train()
    held = loaded[0] if inside else loaded
    again = copy.deepcopy(pickle.loads(pickle.dumps(held)))
    for module in (held, again):
        module(images(3)).sum().backward()
        assert dead_gradients(module, compiled.plan.masks) == 0
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1)
        module(images(3))
        assert dead_weights(module, compiled.plan.masks) == 0


def test_what_is_not_held_any_more_is_pickled_so() -> None:
    module, inputs = compiled_of("weight").module, images(2)
    hold(module, {})
    loaded = pickle.loads(pickle.dumps(module))
    assert not loaded._forward_pre_hooks
    assert torch.equal(loaded.eval()(inputs), module.eval()(inputs))


class Tagger(nn.Module):
    """A recurrent layer, which keeps a list of its parameters beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(5, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x)[0])
        return out


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def test_parameters_that_lose_values_alone_stay_the_objects_they_are() -> None:
    """An optimizer, a wrapper or an average that nobody told of a round goes on with the weights of the network."""
    torch.manual_seed(0)
    model = Tagger()
    before = copy.deepcopy(model.state_dict())
    x, target = torch.randn(8, 7, 5), torch.randint(3, (8, 7))
    pruner = graphprune.Pruner(model, x[:2], sparsity=0.5, granularity="weight", data=[(x, target)], loss=loss_of)
    module = pruner.module
    held, optimizer = dict(module.named_parameters()), torch.optim.Adam(module.parameters(), lr=0.1)
    graph = loss_of(module(x), target)
    while pruner.rounds_left:
        loss_of(module(x), target).backward()
        pruner.step()
        masks = {name: mask.clone() for name, mask in pruner.finish().plan.masks.items()}
        assert any(name.startswith("layer.") for name in masks)
        assert all(held[name] is parameter for name, parameter in module.named_parameters())
        assert dead_gradients(module, masks) == 0, "gradients that waited"
        then = {name: parameter.clone() for name, parameter in held.items()}
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(module(x), target).backward()
            optimizer.step()
        assert all((parameter != then[name]).any() for name, parameter in held.items())
        assert all(not held[name][~mask].any() for name, mask in masks.items())
        alone = Tagger()
        alone.load_state_dict(module.state_dict())
        torch.testing.assert_close(alone(x), module(x))  # the layer computes with what its state dict says
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        graph.backward()  # its weights are gone
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_that_overflowed_before_a_round_are_zero_too() -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 5)
    pruner = graphprune.Pruner(model, x, sparsity=0.5, granularity="weight", criterion="magnitude", schedule="one-shot")
    pruner.module(x).sum().backward()
    for parameter in pruner.module.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(math.inf)
    pruner.step()
    assert dead_gradients(pruner.module, dict(pruner.finish().plan.masks)) == 0


def test_what_is_pickled_as_a_whole_can_be_pruned_and_held_again() -> None:
    compiled, stored, inputs = compiled_of("weight"), io.BytesIO(), images(3)
    torch.save(compiled.module, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    assert torch.equal(loaded.eval()(inputs), compiled.module.eval()(inputs))
    # its parameters have lost their hooks, so nothing may say that they have them
    replayed = compiled.plan.apply(loaded).train()
    replayed(inputs).sum().backward()
    assert dead_gradients(replayed, compiled.plan.masks) == 0


def test_a_pruned_module_can_be_pruned_again() -> None:
    first = compiled_of("weight", sparsity=0.5)
    second = graphprune.compile(
        first.module, images(2), granularity="mixed", sparsity=0.8, data=batches(2), samples=16, schedule="one-shot"
    )
    assert second.verify().relative_error <= 1e-5
    second.module.train()(images(3)).sum().backward()
    assert dead_gradients(second.module, second.plan.masks) == 0
    first.module(images(2))
    assert dead_weights(first.module, first.plan.masks) == 0, "the first is still held"


def test_copies_inside_of_another_module_are_held() -> None:
    compiled = compiled_of("mixed")
    copied = copy.deepcopy(nn.Sequential(compiled.module, nn.Identity()))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    copied(images(3)).sum().backward()
    inner = copied[0]
    assert dead_weights(inner, compiled.plan.masks) == 0 and dead_gradients(inner, compiled.plan.masks) == 0


def test_memory_format_stays() -> None:
    last = torch.channels_last
    model = randomised(Residual()).to(memory_format=last)
    module = compiled_of("weight", model).module
    assert module.get_parameter("conv1.weight").is_contiguous(memory_format=last)


@pytest.mark.parametrize("granularity", BOTH)
def test_a_forward_pass_may_stand_between_two_backward_passes(granularity: str) -> None:
    module, inputs = compiled_of(granularity).module.train(), images(4)
    first, second = module(inputs), module(inputs + 1)
    first.sum().backward()  # after gradients weights might have changed, so the next pass looks at them
    with torch.no_grad():
        module(inputs)
    second.sum().backward(retain_graph=True)
    module(inputs)
    second.sum().backward()


def test_masks_come_through_a_time_without_values() -> None:
    compiled = compiled_of("weight")
    module = compiled.module
    values = {name: torch.ones_like(value) for name, value in module.state_dict().items()}
    module.to("meta")(images(3).to("meta"))
    module.to_empty(device="cpu").load_state_dict(values)
    module(images(3))
    assert dead_weights(module, dict(compiled.plan.masks)) == 0


def test_a_module_without_values_can_be_run() -> None:
    module = compiled_of("weight").module.to("meta")
    assert module(images(3).to("meta")).shape == (3, CLASSES)
