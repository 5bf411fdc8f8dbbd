"""The demo's job at a tiny scale: what it measures, what it leaves behind, and that both networks train as if alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune
from graphprune.cli.demo_run import DemoResult, DemoSettings, run_demo, train_in_turns
from graphprune.errors import LossError, OptionError
from graphprune.research.datasets import Dataset, Split, mnist_5k
from graphprune.research.epochs import accuracy
from graphprune.research.networks import build
from graphprune.research.training import Recipe, train

SETTINGS = DemoSettings(network="mlp5", sparsity=0.9, epochs=1, batch=16, provider="cpu", repeats=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """A few real digits."""
    data = mnist_5k()
    splits = (data.train, data.validation, data.test)
    train, validation, test = (Split(split.inputs[:96], split.targets[:96]) for split in splits)
    return Dataset(data.name, train, validation, test)


@pytest.fixture(scope="module")
def result(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(SETTINGS, tmp_path_factory.mktemp("demo") / "out", digits)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build("mlp5", (1, 28, 28), 10)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def broken() -> nn.Module:
    model = network(0)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    return model


def test_the_compact_network_is_smaller_by_what_was_asked(result: DemoResult) -> None:
    dense, compact = result.dense, result.compact
    assert dense.channels == 4 * 512
    assert abs(compact.channels - 0.1 * dense.channels) <= 1
    assert compact.params < dense.params and compact.macs < dense.macs
    assert compact.size_bytes < dense.size_bytes


def test_everything_was_measured(result: DemoResult) -> None:
    for figures in (result.dense, result.compact):
        assert 0 <= figures.accuracy <= 1
        assert figures.training_seconds > 0
        assert len(figures.latency.samples) == SETTINGS.repeats
    assert result.timing.provider == "CPUExecutionProvider"
    assert result.timing.batch_size == SETTINGS.batch
    assert result.verification.max_abs_error <= result.verification.tolerance
    assert result.dataset == ("mnist_5k", 96, 96, 96)


def test_the_artifact_is_the_compact_network_after_training(result: DemoResult, digits: Dataset) -> None:
    loaded = graphprune.load(result.directory, network(1))
    assert accuracy(loaded, digits.test) == result.compact.accuracy
    assert sum(parameter.numel() for parameter in loaded.parameters()) == result.compact.params


def test_one_seed_gives_one_result_and_leaves_no_trace(result: DemoResult, digits: Dataset, tmp_path: Path) -> None:
    state, threads, phases = torch.get_rng_state(), torch.get_num_threads(), []
    again = run_demo(SETTINGS, tmp_path / "again", digits, lambda phase, done, total: phases.append(phase))
    assert again.dense.accuracy == result.dense.accuracy and again.compact.accuracy == result.compact.accuracy
    first = {path.name: path.read_bytes() for path in result.directory.glob("*.safetensors")}
    assert first == {path.name: path.read_bytes() for path in again.directory.glob("*.safetensors")}
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert [phase.split()[0] for phase in dict.fromkeys(phases)] == ["score", "train", "export", "time", "save"]


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SETTINGS, network="lenet6"),
        replace(SETTINGS, sparsity=1.0),
        replace(SETTINGS, epochs=-1),
        replace(SETTINGS, provider="tpu"),
    ],
)
def test_wrong_settings(wrong: DemoSettings, digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        run_demo(wrong, tmp_path / "out", digits)
    assert not list(tmp_path.iterdir())


def test_in_turns_is_the_same_as_alone(digits: Dataset) -> None:
    recipe = Recipe(3, batch_size=32)
    alone = [network(0), network(1)]
    expected = [train(model, digits.train, recipe, seed=5).epoch_losses for model in alone]
    together = [network(0), network(1)]
    done: list[int] = []
    results = train_in_turns(together[0], together[1], digits.train, recipe, 5, done.append)
    assert [result.epoch_losses for result in results] == expected
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(weights_of(one), weights_of(other), rtol=0, atol=0)
    assert done == [1, 2, 3]


def test_turns_alternate(digits: Dataset) -> None:
    order: list[str] = []
    models = {name: network(0) for name in ("dense", "compact")}
    for name, model in models.items():
        model.register_forward_pre_hook(lambda module, args, name=name: order.append(name))
    train_in_turns(models["dense"], models["compact"], digits.train, Recipe(3, batch_size=96), 0)
    assert order == ["dense", "compact"] * 3


@pytest.mark.parametrize("which", [0, 1])
def test_a_broken_network_ends_both(which: int, digits: Dataset) -> None:
    models = [network(0), network(1)]
    models[which] = broken()
    with pytest.raises(LossError, match="nan"):
        train_in_turns(models[0], models[1], digits.train, Recipe(50), 0)


def test_training_the_dense_network_leaves_the_compact_one_alone(digits: Dataset) -> None:
    dense = network(0)
    data = [(digits.train.inputs, digits.train.targets)]
    compiled = graphprune.compile(dense, digits.train.inputs[:2], sparsity=0.5, data=data, schedule="one-shot")
    before = weights_of(compiled.module)
    train(dense, digits.train, Recipe(1), seed=0)
    torch.testing.assert_close(weights_of(compiled.module), before, rtol=0, atol=0)
