"""The loop that all methods share: penalties, calls within a step, and going on with another module."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.pruner import Pruner
from graphprune.research.datasets import Dataset, Split
from graphprune.research.methods import Dense, Reinitialised
from graphprune.research.methods.channels import example_of
from graphprune.research.methods.method import trainer_of
from graphprune.research.training import Epoch, Recipe, Trainer, observed, train
from tests.research.methods.small import few_digits, lenet

RECIPE = Recipe(2, batch_size=64)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_it_does_what_train_does() -> None:
    one, other = lenet(), lenet()
    result = train(one, few_digits().train, RECIPE, seed=3)
    trainer = Trainer(other, few_digits().train, RECIPE, seed=3)
    trainer.run(2)
    assert torch.equal(weights(one), weights(other))
    assert result.epoch_losses == tuple(epoch.loss for epoch in trainer.done)
    assert [epoch.index for epoch in trainer.done] == [0, 1]


def test_a_penalty_adds_its_gradient_but_not_its_value_to_the_loss_that_is_told() -> None:
    linear = nn.Linear(784, 10)
    nn.init.zeros_(linear.weight)
    model = nn.Sequential(nn.Flatten(), linear)
    still = Recipe(1, batch_size=256, learning_rate=1e-30, weight_decay=0.0, clip_norm=math.inf)
    plain, penalised = (Trainer(copy.deepcopy(model), few_digits().train, still, 0) for _ in range(2))
    # The gradient of 3 * sum w is 3 everywhere.
    penalised.penalty = lambda module: 3 * module.get_parameter("1.weight").sum()
    plain.epoch()
    penalised.epoch()
    assert plain.done[0].loss == penalised.done[0].loss
    before, after = (t.model.get_parameter("1.weight").grad for t in (plain, penalised))
    assert before is not None and after is not None
    # One addition in float32.
    assert torch.allclose(after, before + 3, atol=1e-6)


def test_calls_within_a_step_come_before_clipping_and_after_the_step() -> None:
    trainer = Trainer(lenet(), few_digits().train, Recipe(1, batch_size=256, clip_norm=1e-3), seed=0)
    seen: list[tuple[str, float, torch.Tensor]] = []

    def record(when: str) -> None:
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.model.parameters() if p.grad is not None))
        seen.append((when, norm, weights(trainer.model)))

    before = weights(trainer.model)
    trainer.on_gradients, trainer.after_step = lambda: record("gradients"), lambda: record("step")
    trainer.epoch()
    (first, unclipped, then), (second, clipped, after) = seen
    assert (first, second) == ("gradients", "step")
    # torch adds 1e-6 to the norm that it divides by.
    assert unclipped > 0.1 and clipped == pytest.approx(1e-3, rel=2e-3)
    assert torch.equal(then, before) and not torch.equal(after, before)


def test_another_module_goes_on_where_the_first_one_stopped() -> None:
    through, changed = (Trainer(lenet(), few_digits().train, RECIPE, seed=0) for _ in range(2))
    through.run(3)
    changed.run(1)
    pruner = Pruner(changed.model, example_of(changed.model, few_digits()), sparsity=0.5)
    changed.adopt(pruner.module)
    changed.run(2)
    assert changed.model is pruner.module
    # The same operations in the same order on the same machine.
    assert torch.equal(weights(through.model), weights(changed.model))


def test_another_module_keeps_the_groups_of_the_optimizer() -> None:
    trainer = Trainer(lenet(), few_digits().train, RECIPE, seed=0)
    names = [name for name, _ in trainer.model.named_parameters()]
    first, *rest = trainer.model.parameters()
    groups = [{"params": [first], "lr": 0.5}, {"params": rest, "weight_decay": 0.25}]
    trainer.optimizer = torch.optim.Adam(groups, lr=1e-4)
    other = lenet()
    trainer.adopt(other)
    found = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in trainer.optimizer.param_groups]
    assert found == [(1, 0.5, 0), (len(names) - 1, 1e-4, 0.25)]
    assert trainer.optimizer.param_groups[0]["params"][0] is other.get_parameter(names[0])
    assert not trainer.optimizer.state


def test_training_images_are_mirrored_by_the_probability_of_the_dataset() -> None:
    flat, wide = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), torch.arange(6.0).view(1, 1, 1, 6).repeat(4000, 1, 1, 1)
    split = Split(wide, torch.zeros(4000, dtype=torch.int64))
    data = Dataset("ramps", split, split, split, flip=0.2)
    trainer = trainer_of(flat, data, Recipe(1, batch_size=500), seed=0)
    seen: list[torch.Tensor] = []
    trainer.model.register_forward_pre_hook(lambda module, given: seen.append(given[0].flatten(1)))
    trainer.epoch()
    images = torch.cat(seen)
    turned = (images == wide[0].flatten().flip(0)).all(1)
    assert bool((turned | (images == wide[0].flatten()).all(1)).all())
    # Five standard deviations of a share of 0.2 among 4000.
    assert float(turned.double().mean()) == pytest.approx(0.2, abs=5 * (0.16 / 4000) ** 0.5)
    with pytest.raises(OptionError, match="flip"):
        Trainer(flat, split, RECIPE, seed=0, flip=1.5)


def test_a_control_is_trained_on_mirrored_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    start = Trainer.__init__

    def noted(self: Trainer, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        made.append(self.flip)

    monkeypatch.setattr(Trainer, "__init__", noted)
    Reinitialised(Dense()).train(lenet(), replace(few_digits(), flip=0.25), Recipe(1, 256), 0.0, seed=0)
    assert made == [0.25, 0.25]


def test_observers_see_every_epoch_of_every_trainer_while_they_are_there() -> None:
    one, other = (Trainer(lenet(), few_digits().train, RECIPE, seed=seed) for seed in (0, 1))
    seen: list[tuple[int, Epoch]] = []
    also: list[Epoch] = []
    one.epoch()
    with observed(lambda model, epoch: seen.append((id(model), epoch))):
        one.epoch()
        with observed(lambda model, epoch: also.append(epoch)):
            other.epoch()
    other.epoch()
    assert seen == [(id(one.model), one.done[1]), (id(other.model), other.done[0])]
    assert also == [other.done[0]]
