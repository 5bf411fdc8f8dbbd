"""GateDecorators: gates that take BatchNorm's place, their scores, and what ticks and tocks train."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.research.methods import GateDecorators
from graphprune.research.methods.channels import analysed
from graphprune.research.methods.gate_decorators import GateScores, gate_penalty
from graphprune.research.methods.gated_norm import GatedNorm, put_gates, remove_gates
from graphprune.research.training import Recipe, Trainer
from tests.research.methods.small import TwoBlocks, few_digits, lenet, with_statistics
from tests.small_models import group_of


def test_the_gate_is_gamma_and_the_shift_beta_over_gamma() -> None:
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0, 1.0, 0.25]))
        norm.bias.copy_(torch.tensor([1.0, 1.0, 0.0, -0.5]))
    gamma = norm.weight
    gated = GatedNorm(norm)
    assert gated.gate is gamma
    assert gated.gate.tolist() == [0.5, -2.0, 1.0, 0.25]
    assert gated.shift.tolist() == [2.0, -0.5, 0.0, -2.0]


@pytest.mark.parametrize("training", [False, True])
def test_gates_leave_the_function_as_it_was(training: bool) -> None:
    model, images = with_statistics(TwoBlocks()).double(), few_digits().train.inputs[:16].double()
    same = with_statistics(TwoBlocks()).double()
    same.load_state_dict(model.state_dict())
    gated = put_gates(model)
    assert sorted(gated) == sorted(n for n, m in same.named_modules() if isinstance(m, nn.BatchNorm2d))
    model.train(training), same.train(training)
    # float64 roundings; in training mode both update their statistics.
    assert torch.allclose(model(images), same(images), rtol=1e-9, atol=1e-10)
    remove_gates(model, gated)
    assert list(model.state_dict()) == list(same.state_dict())
    for name, value in same.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-12), name
    assert all(module.training == training for module in model.modules())


def test_a_gate_of_zero_closes_its_channel_and_shifts_are_bounded() -> None:
    norm = nn.BatchNorm1d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 1e-3, 0.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.5, 0.0]))
    gated = GatedNorm(norm)
    assert gated.shift.tolist() == [10.0, 10.0, 0.0]
    out = gated(torch.randn(8, 3))
    assert not bool(out[:, [0, 2]].any()) and bool(torch.isfinite(out).all())


def test_scores_against_single_batches_and_finite_differences() -> None:
    model, digits = with_statistics(TwoBlocks()).double().eval(), few_digits().train
    gated = put_gates(model)
    scores = GateScores(gated)
    batches = [(digits.inputs[i : i + 8].double(), digits.targets[i : i + 8]) for i in (0, 8)]
    for images, targets in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        scores.add()
    step = 1e-6
    for path, channel in (("norm", 2), ("block1.norm1", 0), ("block2.shortcut.norm", 7)):
        gate, total = gated[path].gate, 0.0
        for images, targets in batches:
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    gate[channel] += sign * step
                    losses.append(float(nn.functional.cross_entropy(model(images), targets)))
                    gate[channel] -= sign * step
            total += abs(float(gate[channel].detach()) * (losses[0] - losses[1]) / (2 * step))
        # Central differences in float64: step^2 and 1e-16 / step.
        assert float(scores.sums[path][channel]) == pytest.approx(total, rel=1e-5, abs=1e-8)


def test_coupled_gates_add_up() -> None:
    model = TwoBlocks()
    gated = put_gates(model)
    scores = GateScores(gated)
    for path, gate in gated.items():
        scores.sums[path] = torch.arange(len(gate.gate)) + (100.0 if path == "norm" else 1000.0)
    remove_gates(model, gated)
    program = analysed(model, few_digits().train.inputs[:2])
    found = scores(program, None)  # type: ignore[arg-type]  # it looks at no data
    stream = group_of(program[Dependencies], "stem.weight")
    assert found[stream.start : stream.stop].tolist() == [1100.0 + 2 * channel for channel in range(6)]
    inner = group_of(program[Dependencies], "block1.conv1.weight")
    assert found[inner.start : inner.stop].tolist() == [1000.0 + channel for channel in range(6)]


def test_the_penalty_has_a_gradient_which_is_the_sign() -> None:
    model = with_statistics(lenet())
    gated = put_gates(model)
    with torch.no_grad():
        gated["features.norm1"].gate[1] *= -1
    expected = math.fsum(abs(value) for gate in gated.values() for value in gate.gate.tolist())
    penalty = gate_penalty(gated)
    # A sum of 226 numbers in float32.
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    (1e-3 * penalty).backward()
    for gate in gated.values():
        assert gate.gate.grad is not None
        assert torch.equal(gate.gate.grad, 1e-3 * gate.gate.detach().sign())


def test_ticks_train_gates_and_the_last_layer_and_tocks_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[set[str]] = []
    penalised: list[bool] = []
    epoch = Trainer.epoch

    def watched(self: Trainer) -> object:
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        done = epoch(self)
        moved.append({name for name, p in self.model.named_parameters() if not torch.equal(p, before[name])})
        penalised.append(self.penalty is not None)
        return done

    monkeypatch.setattr(Trainer, "epoch", watched)
    result = GateDecorators().train(lenet(), few_digits(), Recipe(4, batch_size=64), 0.5, seed=0)
    assert penalised == [False] * 4 + [True] + [False] * 3
    gates = {f"{path}.gate" for path in ("features.norm1", "features.norm2", "features.norm3", "classifier.norm1")}
    assert moved[5] == gates | {"classifier.fc2.weight", "classifier.fc2.bias"}
    assert moved[4] > moved[5] and len(moved[4]) == len(list(lenet().parameters()))
    assert all(parameter.requires_grad for parameter in result.module.parameters())


def test_a_run_ends_in_a_smaller_network_without_gates() -> None:
    result = GateDecorators().train(lenet(), few_digits(), Recipe(8, batch_size=64), 0.7, seed=0)
    assert len(result.epochs) == 16
    assert result.compiled is not None
    assert result.node_sparsity == pytest.approx(0.7, abs=0.5 / 226)
    assert result.weight_sparsity > 0.5
    assert list(result.module.state_dict()) == list(lenet().state_dict())
    result.compiled.verify()
    removed = [entry.removed for entry in result.compiled.report.rounds]
    # the same share of what is left each time: 1 - sqrt(0.3) of 226, then of the rest
    assert removed == [102, 56]


@pytest.mark.parametrize(("epochs", "plan"), [(2, (2, 1, 0)), (4, (4, 1, 2)), (10, (10, 2, 6)), (80, (80, 20, 40))])
def test_the_plan_of_epochs(epochs: int, plan: tuple[int, int, int]) -> None:
    assert GateDecorators()._plan(epochs) == plan


def test_what_cannot_be_trained() -> None:
    with pytest.raises(OptionError, match="needs 2 epochs or more, got 1"):
        GateDecorators().train(lenet(), few_digits(), Recipe(1), 0.5, seed=0)
    with pytest.raises(OptionError, match="above 0 and below 1"):
        GateDecorators().train(lenet(), few_digits(), Recipe(4), 0.0, seed=0)


def test_a_network_without_batchnorm() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(OptionError, match="no BatchNorm"):
        GateDecorators().train(model, few_digits(), Recipe(2, batch_size=256), 0.5, seed=0)
