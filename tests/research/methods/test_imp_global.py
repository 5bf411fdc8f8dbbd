"""Magnitude pruning with rewinding: what goes, and that everything comes back."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.research.methods import ImpGlobal
from graphprune.research.methods.imp_global import Snapshot
from graphprune.research.methods.masks import layer_weights
from graphprune.research.training import Recipe, Trainer
from tests.research.methods.small import few_digits, lenet

RECIPE = Recipe(4, batch_size=64)


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, statistics, and the optimizer's state of each parameter."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    state = {
        f"{key} of {names[id(parameter)]}": value
        for parameter, of_one in trainer.optimizer.state.items()
        for key, value in of_one.items()
    }
    return copy.deepcopy({**trainer.model.state_dict(), **state})


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_snapshot_restores_everything_more_than_once() -> None:
    trainer = Trainer(lenet(), few_digits().train, RECIPE, seed=0)
    trainer.run(1)
    snapshot, before = Snapshot.of(trainer.model, trainer.optimizer), everything(trainer)
    kinds = {key.split(" of ")[0] for key in before if " of " in key}
    assert kinds == {"step", "exp_avg", "exp_avg_sq"}
    assert {"features.norm1.running_mean", "features.norm1.num_batches_tracked"} <= before.keys()
    for _ in range(2):
        trainer.run(1)
        assert not equal(everything(trainer), before)
        snapshot.restore(trainer.model, trainer.optimizer)
        assert equal(everything(trainer), before)


def test_training_from_a_snapshot_repeats_itself() -> None:
    trainer = Trainer(lenet(), few_digits().train, RECIPE, seed=0)
    trainer.run(1)
    snapshot = Snapshot.of(trainer.model, trainer.optimizer)
    ends = []
    for _ in range(2):
        trainer._generator.manual_seed(5)
        trainer.run(1)
        ends.append(everything(trainer))
        snapshot.restore(trainer.model, trainer.optimizer)
    assert equal(*ends)


def test_events_rewind_to_the_epoch_and_keep_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[tuple[str, dict[str, Tensor]]] = []
    epoch = Trainer.epoch

    def watched(self: Trainer) -> Any:
        states.append(("begins", everything(self)))
        done = epoch(self)
        states.append(("ends", everything(self)))
        return done

    monkeypatch.setattr(Trainer, "epoch", watched)
    method = ImpGlobal(rewind_epoch=1, every=1, schedule=lambda sparsity: [0.5, sparsity])
    result = method.train(lenet(), few_digits(), RECIPE, 0.9, seed=0)
    start, names = states[1][1], list(layer_weights(lenet()))
    for event, sparsity in ((1, 0.5), (2, 0.9)):
        trained, rewound = states[2 * event + 1][1], states[2 * event + 2][1]
        sizes = torch.cat([trained[name].abs().flatten() for name in names])
        threshold = float(sizes.sort().values[round(sparsity * len(sizes)) - 1])
        for key, value in rewound.items():
            name = key.split(" of ")[-1]
            expected = start[key]
            if name in names and not key.startswith("step"):
                expected = expected * (trained[name].abs() > threshold)
            assert torch.equal(value, expected), key
    assert result.masks is not None and list(result.masks) == names
    assert result.weight_sparsity == pytest.approx(0.9, abs=1 / 151_000)
    assert all(bool((result.module.get_parameter(name)[~mask] == 0).all()) for name, mask in result.masks.items())


def test_what_is_dead_stays_dead() -> None:
    seen: list[dict[str, Tensor]] = []
    sparsities = [0.3, 0.6, 0.8]
    for count in (1, 2, 3):
        method = ImpGlobal(1, 1, schedule=lambda sparsity: [s for s in sparsities if s <= sparsity])
        result = method.train(lenet(), few_digits(), Recipe(5, batch_size=64), sparsities[count - 1], seed=0)
        assert result.masks is not None
        seen.append(result.masks)
    for before, after in itertools.pairwise(seen):
        assert all(bool((before[name] | ~after[name]).all()) for name in before)


def test_defaults_are_the_paper_s_and_fit_fewer_epochs() -> None:
    assert ImpGlobal() == ImpGlobal(rewind_epoch=6, every=4, schedule="halving") == ImpGlobal.within(80)
    for epochs in (8, 9, 10, 20, 30, 40, 160):
        method = ImpGlobal.within(epochs)
        assert method.rewind_epoch + 7 * method.every < epochs
    # what the result is trained for, up to the epoch that it goes back to and after the last event
    trained = {epochs: epochs - 7 * ImpGlobal.within(epochs).every for epochs in (80, 40, 20, 10, 8)}
    assert trained == {80: 52, 40: 26, 20: 13, 10: 3, 8: 1}


def test_too_few_epochs_are_refused_with_what_would_do() -> None:
    with pytest.raises(OptionError, match=r"7 events each 4 epochs from epoch 6 on .*give 35 or more"):
        ImpGlobal().train(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), few_digits(), Recipe(34), 0.9, seed=0)
    with pytest.raises(OptionError, match="every 1 or more"):
        ImpGlobal(every=0)
