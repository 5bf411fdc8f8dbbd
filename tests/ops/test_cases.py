"""Every row of the table: expected coupling, and that what is left computes what the zeroed model computes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

import graphprune
from graphprune.capture import capture
from graphprune.coupling.explain import why_frozen
from graphprune.coupling.labelled import Labelled
from graphprune.gates.insertion import GatedModule, insert_gates
from graphprune.gates.placement import find_sites
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating
from graphprune.program.program import Program
from graphprune.program.tensors import Kept
from graphprune.rewrite.compact import compact_module
from graphprune.verification.equivalence import MaskedProgram, verify_compact
from tests.ops.case import Case, dim_of, randomised
from tests.ops.cases import CASES

SEEDS = (0, 1, 2)
# torch says so whenever such a layer runs on a CPU
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
TOLERANCE = 1e-5  # of the output's scale: sums of some ten terms in float32, in another order


class Analysed:
    """A row's model, its program and its dependencies."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(1)
        self.model = randomised(case.model()).eval()
        self.example = Example.of(case.inputs())
        self.program = Runner().run(pipelines.analysis(), capture(self.model, self.example))
        self.dependencies: Dependencies = self.program[Dependencies]


@functools.cache
def analysed(case: Case) -> Analysed:
    return Analysed(case)


rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@rows
def test_expected_dims_are_prunable_and_frozen(case: Case) -> None:
    found = analysed(case)
    frozen = {(owner.name, owner.dim) for owner in found.dependencies.frozen_dims()}
    stored = {(owner.name, owner.dim) for owner in found.dependencies.stored}
    for entry in case.prunable:
        causes = why_frozen(found.dependencies, *dim_of(entry))
        assert dim_of(entry) in stored - frozen, f"{entry} is frozen: {[str(step.cause) for step in causes]}"
    for entry in case.frozen:
        assert dim_of(entry) in frozen, f"{entry} is not frozen"
        causes = why_frozen(found.dependencies, *dim_of(entry))
        assert causes, f"no reason why {entry} is frozen"
        assert case.reason in str(causes[-1].cause)
    assert not case.exported or found.program.captured_by.route.startswith("torch.export")


@rows
def test_random_keep_sets_compute_what_the_zeroed_model_computes(case: Case) -> None:
    found = analysed(case)
    for seed in SEEDS:
        compare(case, found, random_keep(found.dependencies, seed))


@rows
def test_one_channel_per_group_computes_what_the_zeroed_model_computes(case: Case) -> None:
    found = analysed(case)
    keep = torch.zeros(found.dependencies.channels, dtype=torch.bool)
    for group in found.dependencies.groups:
        keep[group.start + group.channels // 2] = True
    compare(case, found, keep)


@rows
def test_a_second_round_verifies(case: Case) -> None:
    found = analysed(case)
    first = compare(case, found, random_keep(found.dependencies, seed=7))
    again = Runner().run(pipelines.reanalysis(), first)
    keep = random_keep(again[Dependencies], seed=8)
    second = again.with_module(compact_module(again, KeepSet.of(again[Dependencies], keep)))
    verify_compact(MaskedProgram.of(again, KeepSet.of(again[Dependencies], keep)), second)


@rows
def test_compile_verifies_trains_and_keeps_the_keys(case: Case) -> None:
    found = analysed(case)
    if all(group.channels == 1 for group in found.dependencies.groups):
        pytest.skip("nothing of this model can be removed")
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    compiled = graphprune.compile(
        found.model, found.example, sparsity=0.5, criterion="random", schedule="one-shot", seed=3
    )
    assert compiled.plan.kept
    assert set(compiled.module.state_dict()) <= set(before)
    assert all(torch.equal(before[name], tensor) for name, tensor in found.model.state_dict().items())
    train_one_step(compiled.module, found.example)


# a distance sees the codes as well, which are parameters and have no gate; a spectral norm sees the weight itself
GATED_DIFFERENTLY = {
    "nearest code",
    "spectral norm",
    # queries, keys and values are one tensor: it is gated where it leaves the attention, not inside
    "attention whose default scale comes from a pruned width",
}


@rows
def test_a_closed_gate_is_a_removed_channel(case: Case) -> None:
    found = analysed(case)
    if case.mixing or case.name in GATED_DIFFERENTLY or not found.dependencies.groups:
        pytest.skip("a closed gate is something else here")
    gated = insert_gates(
        found.program, found.dependencies, find_sites(found.program, found.dependencies), per_sample=False
    )
    compare_gated(gated, torch.ones(gated.channels + 1), outputs(found.model, found.example), found)
    for group in found.dependencies.groups[:3]:
        gate, keep = torch.ones(gated.channels + 1), torch.ones(gated.channels, dtype=torch.bool)
        gate[group.start], keep[group.start] = 0, False
        masked = MaskedProgram.of(found.program, KeepSet.of(found.dependencies, keep)).run(found.example)
        expected = [leaf.value for leaf in tree_leaves(masked) if isinstance(leaf, Labelled)]
        compare_gated(gated, gate, expected, found)


def compare_gated(gated: GatedModule, gate: Tensor, expected: list[Tensor], found: Analysed) -> None:
    gated.set_gate(gate)
    with evaluating(gated.module):
        for first, second in zip(expected, outputs(gated.module, found.example), strict=True):
            scale = max(float(first.abs().max()), 1e-3) if first.numel() else 1.0
            assert first.shape == second.shape
            assert float((first - second).abs().max() if first.numel() else 0) <= TOLERANCE * scale


def compare(case: Case, found: Analysed, keep: Tensor) -> Program:
    """Masked equals compact, by the built-in verifier and, where nothing mixes channels, by zeroing the user's
    model."""
    module = compact_module(found.program, KeepSet.of(found.dependencies, keep))
    kept = KeepSet.of(found.dependencies, keep).indices
    compact = found.program.pruned(module, kept, int((~keep).sum()))
    verify_compact(MaskedProgram.of(found.program, KeepSet.of(found.dependencies, keep)), compact)
    assert bool(kept) == (not bool(keep.all()))
    if case.mixing:
        return compact
    expected = outputs(zeroed(found.model, kept), found.example)
    for first, second in zip(expected, compact_outputs(compact, found.example), strict=True):
        assert first.shape == second.shape
        assert float((first - second).abs().max()) <= TOLERANCE * max(float(first.abs().max()), 1e-3)
    return compact


def random_keep(dependencies: Dependencies, seed: int) -> Tensor:
    """Each channel stays with a chance that varies by group; one at least stays in each."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.zeros(dependencies.channels, dtype=torch.bool)
    for group in dependencies.groups:
        chance = torch.rand((), generator=generator)
        keep[group.start : group.stop] = torch.rand(group.channels, generator=generator) < chance
        keep[group.start + int(torch.randint(group.channels, (), generator=generator))] = True
    return keep


def zeroed(model: nn.Module, kept: Kept) -> nn.Module:
    """A copy of the user's model with zeros in all slices that are not kept."""
    model = copy.deepcopy(model)
    stored = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    with torch.no_grad():
        for (name, dim), indices in kept.items():
            if name not in stored:
                continue  # a constant in the code of forward, which the removed weights make irrelevant
            removed = torch.ones(stored[name].shape[dim], dtype=torch.bool)
            removed[indices] = False
            stored[name].index_fill_(dim, removed.nonzero().flatten(), 0)
    return model


def outputs(model: nn.Module, example: Example) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(*example.args, **example.kwargs)) if isinstance(leaf, Tensor)]


def compact_outputs(program: Program, example: Example) -> list[Tensor]:
    with evaluating(program.module):
        return outputs(program.module, example)


def train_one_step(module: fx.GraphModule, example: Example) -> None:
    """Dropout is on, gradients are finite, every parameter can move; afterwards the module still evaluates."""
    module.train()
    assert all(submodule.training for submodule in module.modules())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    result: Any = module(*example.args, **example.kwargs)
    loss = sum(leaf.float().square().mean() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    optimizer.step()
    module.eval()
    with torch.no_grad():
        module(*example.args, **example.kwargs)


def test_functional_dropout_follows_the_mode() -> None:
    found = analysed(next(case for case in CASES if case.name == "functional dropout"))
    compiled = graphprune.compile(found.model, found.example, sparsity=0.3, criterion="random", schedule="one-shot")
    module, (x,) = compiled.module.train(), found.example.args
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
