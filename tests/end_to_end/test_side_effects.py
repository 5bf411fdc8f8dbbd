"""The user's model, and the process, after compile: bit for bit what they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune import Pruner
from graphprune.criteria.elasticity import Elasticity
from graphprune.errors import UserError
from tests.small_models import CLASSES, Inverted, Residual, images, randomised


class Full(Residual):
    """Everything that could be disturbed: dropout, a tie, a buffer outside of the state dict, a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.unused = nn.Parameter(torch.rand(3))
        self.conv1.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(x, 0.1, self.training)
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.relu(x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))))
        x = functional.relu(self.norm3(self.conv3(x)) + self.short_norm(self.short(x)))
        x = self.second(self.first(x.mean((2, 3)))) * self.scale
        out: Tensor = self.fc(x)
        return out


class Unscriptable(Inverted):
    """Control flow on the size of the batch: torch.fx cannot trace it, torch.export can."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 0 and int(x.shape[1]) == 2:
            x = x * 2
        return super().forward(x)


def full_model() -> nn.Module:
    model = randomised(Full()).train()
    model.norm1.eval()
    model.fc.weight.grad = torch.rand_like(model.fc.weight)
    model.fc.register_forward_hook(lambda module, args, output: None)
    model.register_forward_pre_hook(lambda module, args: None)
    return model


def state_of(model: nn.Module) -> dict[str, Any]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        "values": {name: tensor.detach().clone() for name, tensor in tensors},
        "identities": {name: (id(tensor), type(tensor)) for name, tensor in tensors},
        "flags": {name: (tensor.requires_grad, tensor.is_leaf, tensor.dtype) for name, tensor in tensors},
        "gradients": {name: None if tensor.grad is None else tensor.grad.clone() for name, tensor in tensors},
        "modes": {name: module.training for name, module in model.named_modules()},
        "modules": {name: (id(module), type(module)) for name, module in model.named_modules()},
        "hooks": {name: [dict(getattr(m, hook)) for hook in hooks] for name, m in model.named_modules()},
        "attributes": {name: sorted(module.__dict__) for name, module in model.named_modules()},
    }


def random_state() -> dict[str, Any]:
    key = np.random.get_state(legacy=False)
    return {"torch": torch.get_rng_state(), "numpy": key["state"]["key"].tolist(), "python": random.getstate()}


def assert_same(before: Any, after: Any, path: str = "") -> None:
    if isinstance(before, Tensor):
        assert torch.equal(before, after), path
    elif isinstance(before, dict):
        assert before.keys() == after.keys(), path
        for key in before:
            assert_same(before[key], after[key], f"{path}/{key}")
    else:
        assert before == after, path


def global_settings() -> tuple[bool, torch.dtype, int]:
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(images(4), torch.randint(CLASSES, (4,))) for _ in range(2)]


@pytest.mark.parametrize("factory", [full_model, Unscriptable], ids=["torch.fx", "torch.export"])
@pytest.mark.parametrize("options", [{}, {"accumulate": "signed"}, {"criterion": Elasticity(training=True)}])
def test_compile_leaves_the_model_alone(factory: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    model, example, data = factory(), images(2), batches()
    inputs = [tensor.clone() for batch in data for tensor in batch]
    before, numbers, settings = state_of(model), random_state(), global_settings()
    compiled = graphprune.compile(model, example, sparsity=0.5, data=data, samples=8, schedule="one-shot", **options)
    assert compiled.report.achieved["channels"] > 0.4
    assert_same(before, state_of(model))
    assert_same(numbers, random_state())
    assert settings == global_settings()
    assert all(torch.equal(a, b) for a, b in zip(inputs, [t for batch in data for t in batch], strict=True))


def test_a_failed_compile_leaves_the_model_alone() -> None:
    model, example = full_model(), images(2)
    before, numbers = state_of(model), random_state()
    with pytest.raises(UserError):
        graphprune.compile(model, example, sparsity=0.5, data=[(example * torch.nan, torch.zeros(2).long())], samples=2)
    assert_same(before, state_of(model))
    assert_same(numbers, random_state())


def test_ties_stay_ties() -> None:
    model = full_model()
    compiled = graphprune.compile(model, images(2), sparsity=0.5, schedule="one-shot")
    assert model.get_parameter("first.weight") is model.get_parameter("second.weight")
    assert compiled.module.get_parameter("first.weight") is compiled.module.get_parameter("second.weight")


def test_the_compact_module_has_the_models_flags_and_modes() -> None:
    model = full_model()
    compiled = graphprune.compile(model, images(2), sparsity=0.5, schedule="one-shot")
    required = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in compiled.module.named_parameters()} == {
        name: flag for name, flag in required.items() if name != "unused"
    }
    modes = {name: module.training for name, module in compiled.module.named_modules()}
    assert modes["norm1"] is False and modes["norm2"] is True and compiled.module.training


def test_training_the_compact_module_leaves_the_model_alone() -> None:
    model = full_model()
    before = state_of(model)
    compiled = graphprune.compile(model, images(2), sparsity=0.5, schedule="one-shot")
    optimizer = torch.optim.SGD(compiled.module.parameters(), lr=0.1)
    compiled.module(images(4)).sum().backward()
    optimizer.step()
    assert_same(before, state_of(model))


def test_a_backward_pass_that_the_model_waits_for_stays_valid() -> None:
    model = full_model()
    loss = model(images(4)).sum()
    compiled = graphprune.compile(model, images(2), sparsity=0.3, schedule="one-shot", protect=("first.weight",))
    with torch.no_grad():
        for parameter in compiled.module.parameters():
            parameter.add_(1)
    loss.backward()


def test_training_a_pruners_module_leaves_the_model_alone() -> None:
    model = full_model()
    before = state_of(model)
    pruner = Pruner(model, images(2), sparsity=0.5, schedule="one-shot")
    optimizer = torch.optim.SGD(pruner.module.parameters(), lr=0.1)
    for _ in range(2):
        pruner.module(images(4)).sum().backward()
        optimizer.step()
        if pruner.rounds_left:
            pruner.step(optimizer=optimizer)
    assert_same(before, state_of(model))


def test_training_the_model_afterwards_leaves_the_compact_module_alone() -> None:
    model = full_model()
    compiled = graphprune.compile(model, images(2), sparsity=0.5, schedule="one-shot")
    before = {name: value.clone() for name, value in compiled.module.state_dict().items()}
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(1)
    assert_same(before, dict(compiled.module.state_dict()))


def test_training_the_model_after_a_pruner_was_made_leaves_the_pruner_alone() -> None:
    model = full_model()
    pruner = Pruner(model, images(2), sparsity=0.5, schedule="one-shot")
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    module = pruner.module
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    found = module.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in found.items())
