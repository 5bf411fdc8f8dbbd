"""Gates inside of recurrent layers, and what a pruned recurrent layer still is: a module of torch.nn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.gates.insertion import can_be_per_sample, insert_gates
from graphprune.gates.placement import find_sites
from graphprune.program.module_state import evaluating
from tests.gates.test_gates import check_closed_is_masked
from tests.ops.case import net, randomised
from tests.ops.cases_recurrent import ROWS
from tests.small_models import analysed

MODELS: dict[str, Callable[[], nn.Module]] = {case.name: case.model for case in ROWS if case.name in {
    "lstm", "gru", "rnn", "rnn with relu, without biases", "lstm in both directions, two layers, dropout",
    "gru in both directions, two layers", "last states of an lstm", "lstm that torch.export captures",
    "lstm with computed states", "gru with learned states", "lstm with time first",
    "lstm cell in a loop", "gru cell in a loop", "lstm cell in a loop over the length",
    "lstm cell in a loop that torch.export captures",
}}  # fmt: skip
"""Those of one input and one output."""


@pytest.mark.parametrize("name", MODELS)
def test_a_closed_gate_is_a_removed_unit(name: str) -> None:
    torch.manual_seed(0)
    check_closed_is_masked(randomised(MODELS[name]()), torch.randn(3, 7, 5))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_closed_gate_behind_a_projection() -> None:
    torch.manual_seed(0)
    model = next(case for case in ROWS if case.name == "lstm with projection").model()
    check_closed_is_masked(model, torch.randn(3, 7, 5))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"lstm with time first", "gru with learned states"}))
def test_each_sample_has_gates_of_its_own(name: str) -> None:
    """Gates of one sample change the output of no other, and all sites can have them.

    Not so where the samples are not in dim 0 of the input, or a site is the same for all samples.
    """
    torch.manual_seed(0)
    inputs = torch.randn(3, 7, 5)
    program, dependencies = analysed(randomised(MODELS[name]()), inputs)
    sites = find_sites(program, dependencies)
    assert all(map(can_be_per_sample, sites))
    gated = insert_gates(program, dependencies, sites, per_sample=True)
    gate = torch.ones(3, gated.channels + 1)
    gate[1, :-1] = torch.rand(gated.channels)
    with evaluating(gated.module):
        gated.set_gate(gate)
        together = gated.module(inputs)
        for sample in range(3):
            gated.set_gate(gate[sample : sample + 1])
            # sums of some ten products in float32, in another order
            torch.testing.assert_close(gated.module(inputs[sample : sample + 1]), together[sample : sample + 1])


def _two_layers(kind: Any) -> nn.Module:
    return net(
        lambda self, x: self.head(self.cell(self.stem(x))[0].mean(1)),
        stem=nn.Linear(5, 6),
        cell=kind(6, 16, num_layers=2, bidirectional=True, batch_first=True),
        head=nn.Linear(32, 4),
    )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_pruned_layer_is_a_smaller_layer_of_the_same_kind(kind: Any) -> None:
    torch.manual_seed(0)
    data = [(torch.randn(8, 7, 5), torch.randint(4, (8,)))]
    compiled = graphprune.compile(_two_layers(kind), torch.randn(2, 7, 5), sparsity=0.5, data=data, samples=8)
    cell: Any = compiled.module.cell
    assert 0 < cell.hidden_size < 16 and 0 < cell.input_size <= 6
    fresh = kind(cell.input_size, cell.hidden_size, num_layers=2, bidirectional=True, batch_first=True)
    fresh.load_state_dict(cell.state_dict())
    x = torch.randn(3, 7, cell.input_size)
    torch.testing.assert_close(fresh(x)[0], cell(x)[0])
    assert all(
        weight is getattr(cell, name) for name, weight in zip(cell._flat_weights_names, cell._flat_weights, strict=True)
    )
    copied = copy.deepcopy(compiled.module).eval()
    compiled.module.eval()
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(copied(x), compiled.module(x))


def test_units_are_ranked_by_what_they_do_in_every_step() -> None:
    """A unit that nobody reads, and one that only later steps read, are told apart."""
    torch.manual_seed(0)
    model: Any = _two_layers(nn.RNN)
    with torch.no_grad():
        for name, weight in model.cell.named_parameters():
            if name.startswith("weight_hh"):
                weight[:, 3] = 0
        model.cell.weight_ih_l1[:, [3, 19]] = 0
        model.cell.weight_ih_l1_reverse[:, [3, 19]] = 0
        model.head.weight[:, [3, 5, 19, 21]] = 0
    program, dependencies = analysed(model, torch.randn(2, 7, 5))
    sites = find_sites(program, dependencies)
    gated = insert_gates(program, dependencies, sites, per_sample=False)
    gate = torch.ones(gated.channels + 1, requires_grad=True)
    gated.set_gate(gate)
    loss: Tensor = gated.module(torch.randn(4, 7, 5)).square().sum()
    (gradient,) = torch.autograd.grad(loss, gate)
    group = next(group for group in dependencies.groups if group.name == "cell.weight_ih_l0")
    assert gradient[group.start + 3] == 0 and gradient[group.start + 5] != 0


def test_a_pruned_lstm_is_one_node_of_an_onnx_file(tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(0)
    compiled = graphprune.compile(
        MODELS["lstm"](), torch.randn(2, 7, 5), sparsity=0.5, criterion="random", schedule="one-shot"
    )
    assert compiled.export_onnx(tmp_path / "lstm.onnx").max_rel_error < 1e-5  # roundings of float32
    assert sum(node.op_type == "LSTM" for node in onnx.load(tmp_path / "lstm.onnx").graph.node) == 1
