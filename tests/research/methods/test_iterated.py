"""SNIP-it, SNAP-it and CNIP-it: events before and during training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.criteria.elasticity import Elasticity
from graphprune.errors import OptionError
from graphprune.pruner import Pruner
from graphprune.request.schedule import halving
from graphprune.research.methods import METHODS, Iterated
from graphprune.research.methods.iterated import exponential, published_loss
from graphprune.research.training import Recipe, Trainer
from tests.research.methods.small import few_digits, lenet


def method(name: str, **changes: Any) -> Iterated:
    found = METHODS[name]
    assert isinstance(found, Iterated)
    return replace(found, samples=128, **changes)


@pytest.mark.parametrize("name", ["snap-it", "snip-it", "cnip-it"])
def test_before_training_all_events_come_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    epoch, step = Trainer.epoch, Pruner.step

    def trained(self: Trainer) -> Any:
        log.append("epoch")
        return epoch(self)

    def pruned(self: Pruner, *args: Any, **kwargs: Any) -> Any:
        log.append("event")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "epoch", trained)
    monkeypatch.setattr(Pruner, "step", pruned)
    result = method(name).train(lenet(), few_digits(), Recipe(1, batch_size=128), 0.8, seed=0)
    assert log == ["event"] * 7 + ["epoch"]
    log.clear()
    during = method(f"{name} during", every=1)
    during.train(lenet(), few_digits(), Recipe(9, batch_size=128), 0.8, seed=0)
    assert log == ["epoch", "event"] * 7 + ["epoch"] * 2
    assert result.compiled is not None and len(result.compiled.report.rounds) == 7


def test_each_event_sees_fresh_samples_and_follows_the_schedule() -> None:
    seen: list[float] = []

    class Watched(Iterated):
        def _pruner(self, *args: Any) -> Pruner:
            pruner = super()._pruner(*args)
            step = pruner.step

            def stepped(data: Any, optimizer: Any) -> Any:
                seen.append(float(torch.cat([inputs for inputs, _ in data]).double().sum()))
                return step(data, optimizer)

            pruner.step = stepped  # type: ignore[method-assign, assignment]
            return pruner

    result = Watched("watched", "weight", samples=64).train(lenet(), few_digits(), Recipe(0), 0.9, seed=0)
    assert len(set(seen)) == 7
    assert result.compiled is not None
    achieved = [entry.achieved["weights"] for entry in result.compiled.report.rounds]
    assert achieved == pytest.approx(halving(0.9), abs=1e-4)


def test_dead_weights_stay_dead_and_the_share_is_exact() -> None:
    result = method("snip-it").train(lenet(), few_digits(), Recipe(2, batch_size=64), 0.9, seed=0)
    weights = [layer.weight for layer in result.module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    total, live = sum(w.numel() for w in weights), sum(int((w != 0).sum()) for w in weights)
    assert live == total - round(0.9 * total)
    assert 1 - live / total == pytest.approx(result.weight_sparsity, rel=1e-12)


def test_jointly_both_kinds_of_sparsity_are_told() -> None:
    model = lenet()
    result = method("cnip-it").train(model, few_digits(), Recipe(1, batch_size=128), 0.9, seed=0)
    initial = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    live = sum(int((m.weight != 0).sum()) for m in result.module.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert result.weight_sparsity == pytest.approx(0.9, abs=1e-5) and live == round(initial * 0.1)
    assert 0 < result.node_sparsity < 1 and result.masks is not None
    assert result.compiled is not None
    result.compiled.verify()


def test_as_published_scores_as_the_published_code_does() -> None:
    """Gates of the published code come before normalisations, and its loss takes logits for log-probabilities."""
    method_, x, target = method("snap").as_published(), torch.randn(16, 1, 28, 28), torch.randint(10, (16,))
    assert (method_.accumulate, method_.published_loss, method_.name) == ("signed", True, "snap, as published")
    model = lenet()
    conv, norm = model.get_submodule("features.conv1"), model.get_submodule("features.norm1")
    for values in (*norm.parameters(), norm.get_buffer("running_mean")):
        nn.init.uniform_(values, 0.5, 2)
    gates = torch.ones(6, requires_grad=True)
    model.eval()
    hook = conv.register_forward_hook(lambda module, args, output: output * gates.view(1, -1, 1, 1))
    loss = -model(x).gather(1, target[:, None]).mean()
    loss.backward()
    hook.remove()
    assert gates.grad is not None
    expected = (gates.grad / loss.detach()).abs()
    program = graphprune.compile(
        model, x[:2], sparsity=0.1, criterion=method_.criterion, accumulate="signed", loss=published_loss,
        data=[(x, target)], samples=16, schedule="one-shot",
    )  # fmt: skip
    found = {row.name: row.elasticity for row in program.report.groups}
    assert found["features.conv1.weight"] == pytest.approx(float(expected.mean()), rel=1e-4)
    for name, structured in (("snip-it during", False), ("cnip-it", False), ("snap-it during", True)):
        turned = method(name).as_published()
        assert turned.published_loss and turned.every == method(name).every
        assert (turned.criterion == Elasticity(before_normalisation=True)) == structured
    with pytest.raises(OptionError, match="grasp: what is published is a choice of methods that rank by elasticity"):
        method("grasp").as_published()


def test_intervals_are_in_proportion_and_an_epoch_at_least() -> None:
    assert method("snap-it during").within(80).every == 4
    assert method("snap-it during").within(20).every == method("snap-it during").within(8).every == 1
    assert method("snap-it").within(20).every == 0
    with pytest.raises(OptionError, match=r"7 events each 4 epochs leave nothing of 10 epochs"):
        method("snap-it during").train(lenet(), few_digits(), Recipe(10), 0.5, seed=0)


def test_the_published_loss_is_minus_the_logit_of_the_class() -> None:
    logits, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    expected = -sum(float(logits[row, column]) for row, column in enumerate(target.tolist())) / 5
    assert float(published_loss(logits, target)) == pytest.approx(expected, rel=1e-12)


def test_an_exponential_schedule() -> None:
    sparsities = exponential(100)(0.99)
    assert len(sparsities) == 100 and sparsities[-1] == 0.99
    left = [1.0, *(1 - sparsity for sparsity in sparsities)]
    assert all(after / before == pytest.approx(0.01**0.01) for before, after in pairwise(left))
