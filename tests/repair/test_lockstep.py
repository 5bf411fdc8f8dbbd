"""Runs that stop before a node, against runs in one go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graphprune.program.example import Example
from graphprune.program.module_state import evaluating, run_program
from graphprune.program.program import Program
from graphprune.repair import shelf as shelf_module
from graphprune.repair.lockstep import Lockstep, chosen_positions
from graphprune.repair.shelf import Shelf
from tests.small_models import Residual, analysed, images, randomised


def examples(count: int = 3) -> list[Example]:
    return [Example.of(images(2)) for _ in range(count)]


def values_at(program: Program, batches: list[Example], names: list[str]) -> list[list[Tensor]]:
    """The values of the first inputs of some nodes, in each batch."""
    nodes = {node.name: node for node in program.module.graph.nodes}
    with Shelf() as shelf, evaluating(program.module):
        lockstep = Lockstep(program, batches, shelf)
        return [[values[nodes[name].all_input_nodes[0]] for values in lockstep.until(nodes[name])] for name in names]


@pytest.mark.parametrize("limit", [0, 10**9])
@pytest.mark.parametrize("stops", [["output"], ["norm1", "output"], ["stem", "conv1", "norm1", "norm1", "output"]])
def test_stops_change_nothing(stops: list[str], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "LIMIT_BYTES", limit)
    torch.manual_seed(0)
    program, _ = analysed(randomised(Residual()), images())
    batches = examples()
    found = values_at(program, batches, stops)[-1]
    for output, batch in zip(found, batches, strict=True):
        assert torch.equal(output, tree_leaves(run_program(program, batch))[0])


def test_a_layer_can_change_before_it_is_run() -> None:
    torch.manual_seed(0)
    program, _ = analysed(randomised(Residual()), images())
    batches = examples()
    nodes = {node.name: node for node in program.module.graph.nodes}
    with Shelf() as shelf, evaluating(program.module):
        lockstep = Lockstep(program, batches, shelf)
        for _ in lockstep.until(nodes["fc"]):
            pass
        program.module.get_parameter("fc.bias").add_(1)
        changed = [values[nodes["fc"]] for values in lockstep.until(nodes["output"])]
    for output, batch in zip(changed, batches, strict=True):
        assert torch.equal(output, tree_leaves(run_program(program, batch))[0])


def test_only_what_is_needed_later_is_kept() -> None:
    program, _ = analysed(Residual(), images())
    nodes = {node.name: node for node in program.module.graph.nodes}
    with Shelf() as shelf, evaluating(program.module):
        lockstep = Lockstep(program, examples(), shelf)
        for values in lockstep.until(nodes["output"]):
            assert len(values) == 1


def test_inputs_of_the_user_are_not_written_to() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(self.a(x.clamp_(0, 1)))
            return result

    program, _ = analysed(Writes(), torch.randn(2, 4))
    batch = torch.randn(2, 4)
    before = batch.clone()
    values_at(program, [Example.of(batch)], ["output"])
    assert torch.equal(batch, before)


def test_positions() -> None:
    cpu = torch.device("cpu")
    assert torch.equal(chosen_positions(5, 5, 0, cpu), torch.arange(5))
    some = chosen_positions(50, 20, 3, cpu)
    assert len(some.unique()) == 20 and torch.equal(some, some.sort().values) and int(some.max()) < 50
    assert torch.equal(some, chosen_positions(50, 20, 3, cpu)) and not torch.equal(
        some, chosen_positions(50, 20, 4, cpu)
    )
