"""The recipe: what it learns, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Compiled
from graphprune.errors import InputError, LossError, OptionError
from tests.repair.networks import FITTED, IMAGE
from tests.repair.test_refit import data, pruned, squared_distance


def network(name: str = "residual") -> tuple[nn.Module, Compiled]:
    torch.manual_seed(0)
    model = FITTED[name]()
    return model, pruned(model)


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_without_targets_it_comes_nearer_to_the_dense_model(features: float) -> None:
    model, compiled = network()
    before, buffers = squared_distance(compiled, model), copy.deepcopy(dict(compiled.module.named_buffers()))
    dense = copy.deepcopy(model.state_dict())
    found = graphprune.finetune(compiled, data(), epochs=8, features=features)
    assert len(found.epoch_losses) == 8 and found.epoch_losses[-1] < found.epoch_losses[0] and found.seconds > 0
    assert squared_distance(compiled, model) < before
    compiled.verify()
    assert all(torch.equal(value, dense[key]) for key, value in model.state_dict().items())
    # batch norms keep their statistics
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in compiled.module.named_buffers())


def test_targets_are_learnt_and_batch_norms_train() -> None:
    _, compiled = network()
    inputs = data()[0][0]
    targets = inputs[:, :3].mean((2, 3)).argmax(1)
    buffers = copy.deepcopy(dict(compiled.module.named_buffers()))

    def right() -> float:
        with torch.no_grad():
            return float((compiled.module.eval()(inputs).argmax(1) == targets).float().mean())

    before = right()
    graphprune.finetune(compiled, [(inputs, targets)] * 5, epochs=12, learning_rate=2e-2)
    assert right() > before
    assert not all(torch.equal(buffer, buffers[name]) for name, buffer in compiled.module.named_buffers())


def test_targets_are_left_alone_without_a_loss() -> None:
    results = []
    for target in (torch.zeros(32, dtype=torch.long), None):
        _, compiled = network()
        graphprune.finetune(compiled, [(inputs, target) for inputs, _ in data()], epochs=1, loss=None)
        results.append(compiled.module.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_one_seed_gives_one_result_and_leaves_the_random_state() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.drop, self.b = nn.Conv2d(4, 8, 1), nn.Dropout(0.5), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(self.drop(self.a(x).relu()).mean((2, 3)))
            return result

    def tuned(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        compiled = graphprune.compile(Dropping(), torch.randn(2, *IMAGE), sparsity=0.5, criterion="random")
        torch.manual_seed(5)
        state = torch.get_rng_state()
        graphprune.finetune(compiled, data(), epochs=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return compiled.module.state_dict()

    first, second, other = tuned(0), tuned(0), tuned(1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_dead_weights_stay_zero(features: float) -> None:
    torch.manual_seed(0)
    compiled = graphprune.compile(
        FITTED["residual"](), torch.randn(8, *IMAGE), sparsity=0.7, granularity="weight", criterion="magnitude"
    )
    graphprune.finetune(compiled, data(), epochs=2, features=features)
    for name, mask in compiled.plan.masks.items():
        assert not compiled.module.get_parameter(name)[~mask].any()
    compiled.verify()


def test_modes_and_parameters_stay_the_same_objects_and_progress_is_told() -> None:
    _, compiled = network()
    compiled.module.train()
    compiled.module.get_submodule("na").eval()
    modes = [module.training for module in compiled.module.modules()]
    parameters = dict(compiled.module.named_parameters())
    parameters["s.bias"].requires_grad_(False)
    frozen, told = parameters["s.bias"].clone(), list[tuple[str, int, int]]()

    def note(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    graphprune.finetune(compiled, data(), epochs=2, progress=note)
    assert [module.training for module in compiled.module.modules()] == modes
    assert all(parameters[name] is each for name, each in compiled.module.named_parameters())
    assert torch.equal(parameters["s.bias"], frozen)
    assert told == [("finetune", done, 12) for done in range(1, 13)]
    assert all(parameter.grad is None for parameter in parameters.values())


class Forgetful:
    """Says that it has more batches than it has."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter(data()[:2])


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ((batch for batch in data()), "loader: it has no length"),
        ([], "loader: it is empty"),
        ([torch.ones(3)], r"loader: expected batches \(inputs, target\), got Tensor"),
        (Forgetful(), "loader: expected 3 batches in each epoch, got 2"),
    ],
)
def test_loaders_that_cannot_work(loader: Any, message: str) -> None:
    _, compiled = network()
    with pytest.raises(InputError, match=message):
        graphprune.finetune(compiled, loader, epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 0}, "epochs=0"), ({"learning_rate": 0}, "learning_rate=0: expected a number above 0")],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    _, compiled = network()
    with pytest.raises(OptionError, match=message):
        graphprune.finetune(compiled, data(), **options)


def test_a_last_batch_of_one_sample() -> None:
    """Batch norms cannot train on it."""
    _, compiled = network()
    inputs = data()[0][0]
    batches = [(inputs, torch.zeros(32, dtype=torch.long)), (inputs[:1], torch.zeros(1, dtype=torch.long))]
    assert len(graphprune.finetune(compiled, batches, epochs=1).epoch_losses) == 1


@pytest.mark.parametrize(
    ("batch", "options", "error", "message"),
    [
        ((torch.randn(4, 9, 8, 8), None), {}, InputError, r"the model cannot take a batch with inputs \(4, 9, 8, 8\)"),
        ((torch.full((4, *IMAGE), torch.nan), None), {}, LossError, "the loss became nan"),
        ((torch.randn(4, *IMAGE), torch.full((4,), 7)), {}, LossError, "target 7 is not a class"),
        ((torch.randn(4, *IMAGE), 1), {"loss": lambda output, target: 3}, LossError, "must be a scalar tensor"),
    ],
)
def test_batches_that_cannot_be_learnt(batch: Any, options: Any, error: type[Exception], message: str) -> None:
    _, compiled = network()
    with pytest.raises(error, match=message):
        graphprune.finetune(compiled, [batch], epochs=1, **options)


def test_a_bare_module_is_told_what_is_needed() -> None:
    bare: Any = nn.Linear(3, 2)
    with pytest.raises(OptionError, match=r"give what graphprune\.compile returned"):
        graphprune.finetune(bare, data())
