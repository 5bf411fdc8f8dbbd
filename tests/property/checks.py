"""What must hold of every random program: prunes it at random, round by round, and compares with independent oracles.

- The verifier: compact equals masked, after each round, and every invariant between passes.
- The user's own model with zeros in all slices that were removed in any round, run by plain torch. It knows nothing of
  labels, but cannot tell what an op makes of statistics over fewer channels, so programs with such ops are left out.
- The plan, through JSON, on the user's model.
- A reason for every dim that stays as it is.
- A backward pass.
- onnxruntime, where asked for: an export takes as long as thirty of these checks.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graphprune.capture import capture
from graphprune.coupling.explain import why_frozen
from graphprune.coupling.shapes import RecordedShapes
from graphprune.deploy.onnx_export import export_onnx
from graphprune.errors import ExportError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.prune_channels import PruneChannels
from graphprune.passes.verify_prune import VerifyPrune
from graphprune.plan.plan import Plan
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating
from graphprune.program.program import Attention, Program
from graphprune.program.tensors import Kept
from graphprune.selection.record import Selection
from tests.property.programs import VOCABULARY, Below, RandomProgram, Value

BATCHES = (2, 2, 1, 4)
"""One sample cannot be told from a dim of size 1; four are as many as there are tokens."""

TOLERANCE = 1e-9
"""Of the output's scale: some thousand roundings of float64."""


@dataclass(frozen=True)
class Outcome:
    """What was checked.

    Attributes:
        route: What captured the program.
        channels: Prunable channels at first.
        removed: Channels that went in each round.
        zeroed: The zeroed user's model was compared.
        onnx: onnxruntime was compared.
        refused: torch.onnx.export or onnxruntime refuses the user's own program as well, so there was no comparison.
        shrunk: Ops (names of functions, methods and layers) of which a result became smaller.
    """

    route: str
    channels: int
    removed: tuple[int, ...]
    zeroed: bool
    onnx: bool
    refused: bool
    shrunk: frozenset[str]


def check(model: RandomProgram, below: Below, rounds: int, *, onnx: bool = False) -> Outcome:
    """Prunes a program and checks the result.

    Raises:
        InternalError: a compact program differs from the masked one, or an invariant is broken.
        ExportError: onnxruntime computes something else.
        AssertionError: another oracle differs, or the user's model was changed.
    """
    torch.manual_seed(below(1000))
    randomise(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = analysed(model, below)
    program, removed, steps = pruned_in_rounds(first, below, rounds)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not {name for name, _ in program.history.kept}.intersection(program.protect)
    zeroed, onnx = bool(steps) and not model.mixing, bool(steps) and onnx
    if steps:
        check_replay(model, program, steps)
    if zeroed:
        zeroed_equals_compact(model, program)
    exported = onnx and exports(first, program)
    if steps:
        check_training(program)  # the last, for it changes running statistics
    return Outcome(
        first.captured_by.route, dependencies_of(first).channels, removed, zeroed=zeroed, onnx=exported,
        refused=onnx and not exported, shrunk=shrunk_ops(first, program),
    )  # fmt: skip


def analysed(model: RandomProgram, below: Below) -> Program:
    """The program with its channels, under random options; there is a reason for every dim that has to stay."""
    batch_size, by_name = BATCHES[below(len(BATCHES))], below(6) == 0
    example = example_of(model, batch_size, by_name=by_name)
    if not runs(model, example):  # statistics of one sample, say
        example = example_of(model, 2, by_name=by_name)
    attention: Attention = "head_dim" if below(4) == 0 else "heads"
    names = [name for name, _ in model.named_parameters()]
    protect = (names[below(len(names))],) if below(6) == 0 else ()
    program = Runner().run(pipelines.analysis(), capture(model, example, protect, attention))
    assert program.captured_by.route == "torch.export" or not model.takes_list
    frozen = dependencies_of(program).frozen_dims()
    assert all(why_frozen(dependencies_of(program), owner.name, owner.dim) for owner in frozen)
    return program


def pruned_in_rounds(program: Program, below: Below, rounds: int) -> tuple[Program, tuple[int, ...], list[Kept]]:
    """The program after some rounds, how many channels went in each, and what was kept in those that removed any."""
    removed, steps = [], []
    for _ in range(rounds):
        keep = random_keep(dependencies_of(program), below)
        removed.append(int((~keep).sum()))
        if removed[-1]:
            steps.append(KeepSet.of(dependencies_of(program), keep).indices)
            program = pruned(program, keep)
    return program, tuple(removed), steps


def dependencies_of(program: Program) -> Dependencies:
    """The channels of a program that was analysed."""
    return program[Dependencies]


def randomise(model: nn.Module) -> None:
    """Gives parameters and statistics that start at one value random ones, so that a wrong slice shows."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor.uniform_(0.5, 1.5)


def example_of(model: RandomProgram, batch_size: int, *, by_name: bool) -> Example:
    """Random inputs, as one list, as positional or as keyword arguments."""

    def draw(value: Value) -> Tensor:
        if value.kind == "ids":
            return torch.randint(0, VOCABULARY, (batch_size, *value.shape))
        return torch.randn(batch_size, *value.shape, dtype=torch.float64)

    inputs = [draw(value) for value in model.inputs]
    if model.takes_list:
        return Example((inputs,), {})
    return Example((), dict(zip("xyz", inputs, strict=False))) if by_name else Example(tuple(inputs), {})


def random_keep(dependencies: Dependencies, below: Below) -> Tensor:
    """Each channel stays with a chance that varies by group, or one alone does; one at least stays in each."""
    generator = torch.Generator().manual_seed(below(2**20))
    harsh = below(4) == 0
    keep = torch.zeros(dependencies.channels, dtype=torch.bool)
    for group in dependencies.groups:
        chance = 0.0 if harsh else 0.2 + 0.8 * torch.rand((), generator=generator)
        keep[group.start : group.stop] = torch.rand(group.channels, generator=generator) < chance
        keep[group.start + int(torch.randint(group.channels, (), generator=generator))] = True
    return keep


def pruned(program: Program, keep: Tensor) -> Program:
    """The verified compact program, analysed again."""
    selected = program.knowing(Selection(keep))
    return Runner().run((PruneChannels(), VerifyPrune(), *pipelines.reanalysis()), selected)


def runs(model: nn.Module, example: Example) -> bool:
    """Whether the user's own model takes an example."""
    try:
        outputs(model, example)
    except (RuntimeError, ValueError):
        return False
    return True


def outputs(module: nn.Module, example: Example) -> list[Tensor]:
    """All tensors that a module gives, in evaluation mode."""
    with evaluating(module):
        return [leaf for leaf in tree_leaves(module(*example.args, **example.kwargs)) if isinstance(leaf, Tensor)]


def assert_equal(expected: nn.Module, found: nn.Module, example: Example, what: str) -> None:
    """Two modules give the same."""
    for first, second in zip(outputs(expected, example), outputs(found, example), strict=True):
        assert first.shape == second.shape, f"{what}: {tuple(second.shape)} instead of {tuple(first.shape)}"
        error, scale = float((first - second).abs().max()), float(first.abs().max())
        assert error <= TOLERANCE * max(scale, 1.0), f"{what} differs by {error:.3g} at scale {scale:.3g}"


def check_replay(model: nn.Module, program: Program, steps: Sequence[Kept]) -> None:
    """The plan, through its JSON, gives a module that computes the same."""
    kept = program.history.kept, tuple(steps)
    plan = Plan(type(model).__name__, program.example, *kept, program.protect, attention=program.attention)
    replayed = Plan.from_json(plan.to_json()).apply(model)
    assert_equal(program.module, replayed, program.example, "the replayed plan")


def check_training(program: Program) -> None:
    """A backward pass reaches some parameter."""
    program.module.train()
    example = program.example.resized(4)  # a batch norm refuses to train on one sample
    results: Any = program.module(*example.args, **example.kwargs)
    torch.stack([result.square().mean() for result in tree_leaves(results)]).sum().backward()
    assert any(parameter.grad is not None for parameter in program.module.parameters())
    program.module.eval()


def zeroed_equals_compact(model: nn.Module, program: Program) -> None:
    """The user's model with zeros in all slices that are gone computes what the compact program computes."""
    zeroed = copy.deepcopy(model)
    stored = dict(zeroed.named_parameters(remove_duplicate=False)) | dict(zeroed.named_buffers())
    with torch.no_grad():
        for (name, dim), indices in program.history.kept.items():
            if name in stored:  # else it is a constant in the code of forward, which zero weights make irrelevant
                removed = torch.ones(stored[name].shape[dim], dtype=torch.bool)
                removed[indices] = False
                stored[name].index_fill_(dim, removed.nonzero().flatten(), 0)
    for example in (program.example, program.example.resized(program.example.batch_size + 1)):
        assert_equal(zeroed, program.module, example, "the zeroed model")


def exports(dense: Program, compact: Program) -> bool:
    """Compares the compact program with its ONNX file; False where there can be none, for the dense one has none.

    Nor is there anything to compare where single precision by itself is too coarse (a variance of 0, enlarged).

    Raises:
        ExportError: only the compact program has none, or it computes something else.
    """
    if not is_stable(compact):
        return False
    try:
        export(compact)
    except ExportError:
        try:
            export(dense)
        except ExportError:
            return False
        raise
    return True


def is_stable(program: Program) -> bool:
    """Whether single precision gives what double precision does, on some inputs."""
    single, generator = copy.deepcopy(program.module).float(), torch.Generator().manual_seed(0)
    for _ in range(8):
        example = program.example.fresh(program.example.batch_size + 1, generator)
        coarse = example.mapped(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
        for fine, rough in zip(outputs(program.module, example), outputs(single, coarse), strict=True):
            if float((fine - rough).abs().max()) > 1e-5 * max(float(fine.abs().max()), 1e-3):
                return False
    return True


def export(program: Program) -> None:
    """The module as an ONNX file: checker, and parity in onnxruntime at two batch sizes."""
    module = copy.deepcopy(program.module).float()  # onnxruntime has no convolution in float64
    example = program.example.mapped(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(module, example.args, example.kwargs, Path(folder) / "program.onnx")


def shrunk_ops(first: Program, last: Program) -> frozenset[str]:
    """Names of the ops of which a result is smaller than it was."""
    if RecordedShapes not in first or RecordedShapes not in last:
        return frozenset()
    names = set()
    for node in first.module.graph.nodes:
        before = first[RecordedShapes].by_node.get(node.name)
        if node.op != "get_attr" and before != last[RecordedShapes].by_node.get(node.name, before):
            layer = node.op == "call_module"
            target = type(first.module.get_submodule(str(node.target))) if layer else node.target
            names.add(str(getattr(target, "__name__", target)).partition(".")[0])
    return frozenset(names)
