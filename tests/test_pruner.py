"""Pruning inside a training loop: optimizer state follows, training goes on."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from graphprune import Pruner
from graphprune.errors import InputError, NothingToPruneError, OptionError
from graphprune.program.tensors import Kept
from graphprune.training.optimizer import _WATCHED
from tests.small_models import CLASSES, Residual, images

Batch = tuple[Tensor, Tensor]


def batches(count: int = 4, size: int = 8) -> list[Batch]:
    return [(images(size), torch.randint(CLASSES, (size,))) for _ in range(count)]


def pruner_of(model: nn.Module | None = None, **options: Any) -> Pruner:
    defaults: dict[str, Any] = {"sparsity": 0.5, "samples": 8, "schedule": "linear"}
    return Pruner(model or Residual(), images(2), **(defaults | options))


def two_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Weights with decay, the rest without: options that differ."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.dim() <= 1]
    return [{"params": weights, "lr": 1e-2, "weight_decay": 0.1}, {"params": others, "lr": 3e-3, "weight_decay": 0.0}]


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda module: SGD(module.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda module: Adam(module.parameters(), lr=1e-2),
    "amsgrad": lambda module: Adam(module.parameters(), lr=1e-2, amsgrad=True),
    "adamw": lambda module: AdamW(two_groups(module)),
    "adafactor": lambda module: torch.optim.Adafactor(module.parameters()),
}


def train(module: nn.Module, optimizer: Optimizer, data: list[Batch]) -> float:
    module.train()
    total = 0.0
    for inputs, target in data:
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(inputs), target)
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / len(data)


def cut(tensor: Tensor, name: str, kept: Kept) -> Tensor:
    """What is left of a tensor with the dims of a parameter; dims of size 1 have nothing to lose."""
    for (owner, dim), indices in kept.items():
        if owner == name and tensor.dim() and tensor.shape[dim] > 1:
            tensor = tensor.index_select(dim, indices)
    return tensor


def last_cut(pruner: Pruner) -> Kept:
    return pruner.finish().plan.rounds[-1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_is_sliced_with_its_parameters(name: str) -> None:
    pruner, data = pruner_of(), batches()
    optimizer = OPTIMIZERS[name](pruner.module)
    for _ in range(3):
        train(pruner.module, optimizer, data)
        before = {n: {k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()} for n, p in named(pruner)}
        values = {n: p.detach().clone() for n, p in named(pruner)}
        assert pruner.step(data, optimizer).removed > 0
        kept = last_cut(pruner)
        for parameter_name, parameter in named(pruner):
            assert torch.equal(parameter, cut(values[parameter_name], parameter_name, kept))
            state = optimizer.state[parameter]
            assert state.keys() == before[parameter_name].keys()
            for key, value in before[parameter_name].items():
                assert torch.equal(torch.as_tensor(state[key]), cut(value, parameter_name, kept)), (parameter_name, key)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in pruner.module.parameters()}
    assert set(map(id, optimizer.state)) <= {id(p) for p in held}, "nothing of the old parameters is left"


def named(pruner: Pruner) -> list[tuple[str, nn.Parameter]]:
    return list(pruner.module.named_parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on(name: str) -> None:
    pruner, data = pruner_of(), batches(2)
    module, optimizer = pruner.module, OPTIMIZERS[name](pruner.module)
    while pruner.rounds_left:
        assert torch.isfinite(torch.tensor(train(module, optimizer, data)))
        pruner.step(data, optimizer)
        assert pruner.module is module
    losses = [train(module, optimizer, data) for _ in range(10)]
    assert losses[-1] < losses[0]
    compiled = pruner.finish()
    assert compiled.module is module
    assert compiled.verify().relative_error <= 1e-5
    assert compiled.report.achieved["channels"] == pytest.approx(0.5, abs=1 / 18)


def test_parameter_groups_keep_their_options_and_order() -> None:
    pruner, data = pruner_of(), batches(2)
    optimizer = AdamW(two_groups(pruner.module))
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    names = {id(p): n for n, p in pruner.module.named_parameters()}
    order = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    train(pruner.module, optimizer, data)
    pruner.step(data, optimizer)
    names = {id(p): n for n, p in pruner.module.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups] == order
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == options


def test_a_learning_rate_scheduler_keeps_working() -> None:
    pruner, data = pruner_of(), batches(1)
    optimizer = SGD(pruner.module.parameters(), lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for expected in (0.5, 0.25, 0.125):
        train(pruner.module, optimizer, data)
        pruner.step(data, optimizer)
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == expected


def test_lbfgs_holds_the_new_parameters() -> None:
    pruner = pruner_of()
    optimizer = torch.optim.LBFGS(pruner.module.parameters(), lr=0.01)
    pruner.step(batches(1), optimizer)
    (inputs, target), *_ = batches(1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(pruner.module(inputs), target)
        loss.backward()
        return float(loss.detach())

    before = [parameter.detach().clone() for parameter in pruner.module.parameters()]
    optimizer.step(closure)
    assert any(not torch.equal(a, b) for a, b in zip(before, pruner.module.parameters(), strict=True))


def test_state_of_another_shape_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pruner, data = pruner_of(sparsity=0.8, schedule="one-shot"), batches(1)
    optimizer = Adam(pruner.module.parameters())
    train(pruner.module, optimizer, data)
    optimizer.state[pruner.module.get_parameter("stem.weight")]["exp_avg"] = torch.zeros(7)
    pruner.step(data, optimizer)
    stem = pruner.module.get_parameter("stem.weight")
    assert "optimizer state 'exp_avg' of stem.weight has shape (7,)" in caplog.text
    assert stem not in optimizer.state
    train(pruner.module, optimizer, data)


def test_waiting_gradients_shrink_too() -> None:
    pruner, data = pruner_of(), batches(1)
    optimizer = SGD(pruner.module.parameters(), lr=0.1)
    functional.cross_entropy(pruner.module(data[0][0]), data[0][1]).backward()
    gradients = {name: p.grad.clone() for name, p in named(pruner) if p.grad is not None}
    pruner.step(data, optimizer)
    kept = last_cut(pruner)
    for name, parameter in named(pruner):
        assert parameter.grad is not None and torch.equal(parameter.grad, cut(gradients[name], name, kept))
    optimizer.step()


def test_an_optimizer_of_another_model() -> None:
    model = Residual()
    pruner = pruner_of(model)
    with pytest.raises(InputError, match=r"no parameter of pruner.module; create it from pruner.module.parameters\(\)"):
        pruner.step(batches(1), SGD(Residual().parameters(), lr=0.1))
    before = [tuple(p.shape) for p in pruner.module.parameters()]
    assert before == [tuple(p.shape) for p in model.parameters()] and not pruner.rounds, "nothing was done"


def test_inference_mode_is_named() -> None:
    pruner = pruner_of()
    with torch.inference_mode(), pytest.raises(InputError, match=r"which torch\.inference_mode\(\) rules out"):
        pruner.step(batches(1))
    assert pruner.step(batches(1)).removed


def test_an_optimizer_of_the_users_own_model() -> None:
    model = Residual()
    pruner = pruner_of(model)
    with pytest.raises(InputError, match=r"holds no parameter of pruner\.module"):
        pruner.step(batches(1), SGD(model.parameters(), lr=0.1))


REPLACED = r"parameters? that an earlier step\(\) of the Pruner has replaced by smaller ones"


class Wrapping(SGD):
    """Shows parameters of its own, and trains with another one inside, as ZeroRedundancyOptimizer does."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.inside = SGD([p for group in self.param_groups for p in group["params"]], lr=0.1)

    def step(self, closure: Any = None) -> Any:
        return self.inside.step(closure)


def test_steps_with_what_was_replaced_are_refused() -> None:
    pruner, data = pruner_of(schedule="linear"), batches(1)
    forgotten, wrapping = SGD(pruner.module.parameters(), lr=0.1), Wrapping(pruner.module.parameters())
    train(pruner.module, forgotten, data)
    pruner.step(data, wrapping)
    for optimizer in (forgotten, wrapping):
        with pytest.raises(InputError, match=REPLACED):
            train(pruner.module, optimizer, data)
    train(pruner.module, SGD(pruner.module.parameters(), lr=0.1), data)


def test_parameters_that_an_optimizer_is_given_later_are_looked_at_too() -> None:
    pruner, data = pruner_of(schedule="one-shot"), batches(1)
    *others, last = pruner.module.parameters()
    optimizer = SGD([last], lr=0.1)  # of the output layer's bias, which stays
    pruner.step(data)
    train(pruner.module, optimizer, data)
    optimizer.add_param_group({"params": others})
    for _ in range(2):
        with pytest.raises(InputError, match=REPLACED):
            train(pruner.module, optimizer, data)


def test_what_was_replaced_is_watched_without_the_pruner_as_long_as_it_is_held() -> None:
    pruner, data = pruner_of(schedule="one-shot"), batches(1)
    optimizer = SGD(pruner.module.parameters(), lr=0.1)
    pruner.step(data)
    watched, compiled = pruner._replaced, pruner.finish()
    del pruner
    with pytest.raises(InputError, match=REPLACED):
        train(compiled.module, optimizer, data)
    del optimizer, compiled  # which has the dense network, too
    gc.collect()
    other = Residual()
    train(other, SGD(other.parameters(), lr=0.1), data)
    assert watched not in _WATCHED


def test_an_optimizer_that_an_earlier_step_was_not_given() -> None:
    pruner = pruner_of(schedule="linear")
    parameters = [*pruner.module.parameters()]
    optimizers = [SGD(parameters[:-2], lr=0.1), SGD(parameters[-2:], lr=0.1)]
    pruner.step(batches(1), optimizers[1])
    for given in (optimizers, optimizers[0]):
        with pytest.raises(InputError, match=REPLACED):
            pruner.step(batches(1), given)
    pruner.step(batches(1), SGD(pruner.module.parameters(), lr=0.1))


def test_several_optimizers_follow_together() -> None:
    pruner, data = pruner_of(schedule="linear"), batches(1)
    weights, biases = ([p for _, p in named(pruner) if (p.dim() > 1) is chosen] for chosen in (True, False))
    optimizers = [SGD(weights, lr=0.1, momentum=0.9), Adam(biases)]
    for _ in range(2):
        for optimizer in optimizers:
            train(pruner.module, optimizer, data)
        assert pruner.step(data, optimizers).removed
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in pruner.module.parameters()}


@pytest.mark.parametrize("loader", [batches(2), DataLoader(TensorDataset(*batches(1)[0]), batch_size=4)])
def test_a_pruner_is_copied_and_pickled_between_steps(loader: Any) -> None:
    pruner = pruner_of(schedule="linear", data=loader)
    optimizer = SGD(pruner.module.parameters(), lr=0.1)
    pruner.step()
    for again in (copy.deepcopy(pruner), pickle.loads(pickle.dumps(pruner))):
        assert again.step(optimizer=SGD(again.module.parameters(), lr=0.1)).removed
    with pytest.raises(InputError, match="an earlier step"):
        pruner.step(batches(1), optimizer)


@pytest.mark.parametrize("given", [SGD, 3, [3]])
def test_what_is_no_optimizer(given: Any) -> None:
    with pytest.raises(InputError, match="expected a torch optimizer, made from"):
        pruner_of().step(batches(1), given)


def test_finish_before_step() -> None:
    with pytest.raises(NothingToPruneError, match=r"nothing was removed; call step\(\) before finish\(\)"):
        pruner_of().finish()


def test_more_steps_than_rounds() -> None:
    pruner = pruner_of(schedule="one-shot")
    pruner.step(batches(1))
    assert pruner.rounds_left == 0
    with pytest.raises(NothingToPruneError, match=r"all 1 rounds are done; call finish\(\)"):
        pruner.step(batches(1))


def test_rounds_follow_the_schedule() -> None:
    pruner = pruner_of(sparsity=0.6, schedule=lambda sparsity: [0.2, 0.4, sparsity])
    achieved = [pruner.step(batches(1)).achieved["channels"] for _ in range(3)]
    assert achieved == pytest.approx([0.2, 0.4, 0.6], abs=1 / 18)


def test_a_round_whose_target_is_met_already_removes_nothing() -> None:
    pruner = pruner_of(sparsity=0.5, schedule=lambda sparsity: [0.5, 0.5])
    assert pruner.step(batches(1)).removed == 9
    again = pruner.step(batches(1))
    assert again.removed == 0 and again.verification is None


def test_data_of_a_step_is_what_is_scored() -> None:
    drawn: list[str] = []

    def source(name: str) -> Iterator[Batch]:
        while True:
            drawn.append(name)
            yield batches(1)[0]

    pruner = pruner_of(data=source("first"))
    pruner.step()
    pruner.step(source("second"))
    assert drawn == ["first", "second"]


def test_steps_without_verification() -> None:
    pruner = pruner_of(verify=False)
    assert pruner.step(batches(1)).verification is None


def test_a_step_that_fails_leaves_the_module_as_it_was() -> None:
    pruner = pruner_of()
    before = {name: p.detach().clone() for name, p in named(pruner)}
    with pytest.raises(InputError):
        pruner.step([])
    assert all(torch.equal(before[name], p) for name, p in named(pruner))
    assert pruner.step(batches(1)).removed > 0


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int]] = []
    pruner = pruner_of(schedule="one-shot", progress=lambda stage, done, total: seen.append((stage, done, total)))
    pruner.step(batches(1))
    assert [stage for stage, _, _ in seen] == ["analyse", "score", "select", "prune", "done"]
    assert seen[-1] == ("done", 1, 1)


def test_the_same_seed_gives_the_same_plan() -> None:
    model, data = Residual(), batches()
    plans = []
    for _ in range(2):
        pruner = pruner_of(model, seed=3)
        torch.rand(5)  # the process's own random state does not matter
        pruner.step(data)
        plans.append(pruner.finish().plan.to_json())
    assert plans[0] == plans[1]


@pytest.mark.parametrize("criterion", ["elasticity", "l1-norm", "l2-norm", "random"])
def test_every_criterion_prunes(criterion: str) -> None:
    pruner = pruner_of(criterion=criterion, schedule="one-shot")
    assert pruner.step(batches(1)).removed == 9


def test_a_criterion_that_gives_something_else() -> None:
    with pytest.raises(OptionError, match=r"scores\.Scores or a tensor of shape \(\d+,\), got list"):
        pruner_of(criterion=lambda program, sensitivity: [1.0]).step(batches(1))
