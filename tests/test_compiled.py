from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.compiled import Compiled, embedded
from graphprune.errors import OptionError, VerificationError
from tests.saving.artifacts import Saved, saved_lenet, saved_tied, saved_tiny


@pytest.fixture
def fresh() -> Compiled:
    """A compilation that a test may spoil."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    return graphprune.compile(model, torch.randn(4, 4), sparsity=0.5, schedule="one-shot")


@pytest.mark.parametrize("saved", [saved_lenet, saved_tied])
def test_the_proof_holds_after_training(saved: Callable[[], Saved]) -> None:
    verification = saved().compiled.verify()
    assert verification.relative_error <= verification.tolerance
    assert len(verification.batch_sizes) == 2


def test_the_proof_fails_where_the_module_computes_something_else(fresh: Compiled) -> None:
    fresh.verify()
    node = next(node for node in fresh.module.graph.nodes if node.target == "2")
    with fresh.module.graph.inserting_after(node):
        other = fresh.module.graph.call_function(torch.sigmoid, (node.args[0],))
    node.replace_all_uses_with(other)
    fresh.module.recompile()
    with pytest.raises(VerificationError, match="the compact program differs from the masked one"):
        fresh.verify()


def test_verifying_and_exporting_leave_the_weights_and_the_mode(fresh: Compiled, tmp_path: Path) -> None:
    module = fresh.module.train()
    before = copy.deepcopy(module.state_dict())
    fresh.verify()
    fresh.export_onnx(tmp_path / "model.onnx")
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_the_dense_program_follows_the_compact_module_to_another_device(fresh: Compiled) -> None:
    assert fresh._dense() is fresh._original
    required = [parameter.requires_grad for parameter in fresh._original.module.parameters()]
    fresh.module.to("meta")
    dense = fresh._dense().module
    assert {tensor.device.type for tensor in (*dense.parameters(), *dense.buffers())} == {"meta"}
    assert [parameter.requires_grad for parameter in dense.parameters()] == required
    assert dense.get_parameter("0.weight").shape == (6, 4)


def test_dense_and_compact_are_timed_under_their_names() -> None:
    times = saved_tiny().compiled.benchmark(provider="cpu", repeats=2)
    assert list(times.latencies) == ["dense", "compact"]
    assert times.repeats == 2


def test_more_threads_than_cores_by_far() -> None:
    with pytest.raises(OptionError, match="threads=1000000: this machine has"):
        saved_tiny().compiled.benchmark(threads=1_000_000)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 2.5}, {"threads": "2"}, {"repeats": 0}])
def test_numbers_of_a_benchmark_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=rf"{next(iter(wrong))}=.+: expected a whole number of at least 1"):
        saved_tiny().compiled.benchmark(**wrong)


def test_repr_says_what_shrank() -> None:
    compiled = saved_tiny().compiled
    before, after = compiled.report.costs["channels"]
    assert repr(compiled).startswith(f"Compiled(Sequential: channels {before:,} -> {after:,}, params ")


def test_a_compact_tensor_goes_back_to_its_places() -> None:
    dense = torch.zeros(3, 4)
    kept = {("w", 0): torch.tensor([0, 2]), ("w", 1): torch.tensor([1, 3]), ("other", 0): torch.tensor([0])}
    expected = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0] * 4, [0.0, 3.0, 0.0, 4.0]])
    assert torch.equal(embedded(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), dense, "w", kept), expected)
    assert torch.equal(embedded(dense, dense, "whole", kept), dense)


@pytest.mark.cuda
def test_all_of_it_works_after_the_module_went_to_a_gpu(fresh: Compiled) -> None:
    fresh.module.cuda()
    fresh.verify()
    assert list(fresh.benchmark(repeats=2).latencies) == ["dense", "compact"]
