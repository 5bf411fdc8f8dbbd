"""Random small programs: a random walk over ops that knows the shapes, and the checks that every program must pass.

Everything random comes from one function ``below(n)``, a number in ``range(n)``: hypothesis draws it (and shrinks
it), and
a long run takes it from a seeded generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.capture import capture
from graphprune.dependencies import Dependencies
from graphprune.equivalence import MaskedProgram, run_program, verify_compact
from graphprune.interpret import evaluating
from graphprune.passes import pipelines
from graphprune.plan import Plan
from graphprune.program import Kept, Program
from graphprune.rewrite.compact import compact_module
from graphprune.runner import Runner

Below = Callable[[int], int]
Shape = tuple[int, ...]
"""Without the batch: ``(C, H, W)`` images, ``(L, E)`` tokens, ``(F,)`` features."""

BATCH = 2
LARGEST = 2048
"""Elements per sample that a value may have."""


@dataclass
class Step:
    """One op: which values it reads, the layer it uses, and how it computes."""

    text: str
    inputs: tuple[int, ...]
    compute: Callable[..., Tensor]
    layer: str = ""


class RandomProgram(nn.Module):
    """Runs its steps one after the other; every step gives one value."""

    def __init__(self, steps: Sequence[Step], layers: dict[str, nn.Module], results: Sequence[int]) -> None:
        super().__init__()
        self.steps, self.results = list(steps), tuple(results)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """All results."""
        values = [x]
        for step in self.steps:
            arguments = [values[index] for index in step.inputs]
            layer = [getattr(self, step.layer)] if step.layer else []
            values.append(step.compute(*layer, *arguments))
        return tuple(values[index] for index in self.results)

    def __str__(self) -> str:
        """The program as text."""
        lines = [f"%{index + 1} = {step.text}{list(step.inputs)}" for index, step in enumerate(self.steps)]
        return "\n".join([*lines, f"return {list(self.results)}"])


@dataclass
class Builder:
    """Grows a program; `shapes` has one entry per value, the input first."""

    below: Below
    shapes: list[Shape]
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, nn.Module] = field(default_factory=dict)

    def add(self, text: str, inputs: Sequence[int], shape: Shape, compute: Callable[..., Tensor]) -> int:
        """Adds an op without parameters."""
        self.steps.append(Step(text, tuple(inputs), compute))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def add_layer(self, layer: nn.Module, value: int, shape: Shape) -> int:
        """Adds a layer of its own."""
        name = f"layer{len(self.layers)}"
        self.layers[name] = layer
        self.steps.append(Step(str(layer), (value,), lambda module, x: module(x), name))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def add_shared(self, name: str, value: int) -> int:
        """Calls a layer again that keeps the shape of its input."""
        self.steps.append(Step(f"again {name}", (value,), lambda module, x: module(x), name))
        self.shapes.append(self.shapes[value])
        return len(self.shapes) - 1

    def choose(self, options: Sequence[Any]) -> Any:
        """One of several."""
        return options[self.below(len(options))]

    def recent(self, rank: int) -> list[int]:
        """The last values of a rank, newest first."""
        return [index for index in range(len(self.shapes) - 1, 0, -1) if len(self.shapes[index]) == rank][:4]


def build(below: Below, ops: Sequence[Callable[[Builder, int], int | None]], length: int) -> RandomProgram:
    """A random program.

    Args:
        below: Gives the random numbers.
        ops: Each adds to a builder an op on a value, and gives the number of its result, or None where the op does not
            suit the value.
        length: Number of ops to try.
    """
    shape: Shape = ((3, 4, 4), (4, 5), (7,))[below(3)]
    builder = Builder(below, [shape])
    value = stem(builder, 0)
    for _ in range(length):
        start = value if below(4) else builder.choose(range(1, len(builder.shapes)))
        size = len(builder.shapes)
        added = builder.choose(ops)(builder, start)
        if added is not None and torch.Size(builder.shapes[added]).numel() > LARGEST:
            added = reduce_size(builder, added)
        if added is not None:
            value = added
        assert added is not None or len(builder.shapes) == size, "an op that does not suit must add nothing"
    heads = [head(builder, value)]
    if below(3) == 0:
        heads.append(head(builder, builder.choose(range(1, len(builder.shapes)))))
    if below(6) == 0:
        heads.append(builder.choose(range(1, len(builder.shapes))))
    return RandomProgram(builder.steps, builder.layers, heads).double().eval()


def stem(builder: Builder, value: int) -> int:
    """A first layer, so that there is something to prune."""
    shape, width = builder.shapes[value], (4, 6, 8)[builder.below(3)]
    if len(shape) == 3:
        return builder.add_layer(nn.Conv2d(shape[0], width, 3, padding=1), value, (width, *shape[1:]))
    return builder.add_layer(nn.Linear(shape[-1], width), value, (*shape[:-1], width))


def head(builder: Builder, value: int) -> int:
    """A last layer."""
    shape = builder.shapes[value]
    if len(shape) == 3:
        return builder.add_layer(nn.Conv2d(shape[0], 3, 1), value, (3, *shape[1:]))
    return builder.add_layer(nn.Linear(shape[-1], 3), value, (*shape[:-1], 3))


def reduce_size(builder: Builder, value: int) -> int:
    """Averages over positions."""
    shape = builder.shapes[value]
    if len(shape) == 3:
        return builder.add("mean((2, 3))", [value], shape[:1], lambda x: x.mean((2, 3)))
    if len(shape) == 2:
        return builder.add("mean(1)", [value], shape[1:], lambda x: x.mean(1))
    return builder.add_layer(nn.Linear(shape[0], 8), value, (8,))


@dataclass(frozen=True)
class Outcome:
    """What checking a program did: channels at first, and what went in each round."""

    channels: int
    removed: tuple[int, ...]


def check(model: RandomProgram, below: Below, rounds: int) -> Outcome:
    """Prunes a program at random, round by round.

    Raises:
        InternalError: a compact program differs from the masked one, or an invariant is broken.
        AssertionError: replaying the plan gives another module, or the result cannot be trained.
    """
    torch.manual_seed(below(1000))
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5) if bool((tensor <= 1).all() and (tensor >= 0).all()) else None
    example = torch.randn(BATCH, *input_shape(model), dtype=torch.float64)
    program = Runner().run(pipelines.analysis(), capture(model, example))
    assert program.dependencies is not None
    channels, removed, steps = program.dependencies.channels, [], []
    for _ in range(rounds):
        dependencies = program.dependencies
        assert dependencies is not None
        keep = random_keep(dependencies, below)
        kept = dependencies.kept(keep)
        removed.append(int((~keep).sum()))
        if kept:
            steps.append(kept)
            program = pruned(program, dependencies, keep, kept)
    check_replay(model, program, steps)
    check_training(program)
    return Outcome(channels, tuple(removed))


def input_shape(model: RandomProgram) -> Shape:
    """The shape of the input without the batch, from the first layer."""
    first = model.layer0
    if isinstance(first, nn.Conv2d):
        return (first.in_channels, 4, 4)
    assert isinstance(first, nn.Linear)
    return (4, 5) if first.in_features == 5 else (first.in_features,)


def random_keep(dependencies: Dependencies, below: Below) -> Tensor:
    """Each group keeps a random set of at least one channel."""
    generator = torch.Generator().manual_seed(below(2**20))
    keep = torch.rand(dependencies.channels, generator=generator) < 0.6
    for group in dependencies.groups:
        keep[group.start + int(torch.randint(group.channels, (), generator=generator))] = True
    return keep


def pruned(program: Program, dependencies: Dependencies, keep: Tensor, kept: Kept) -> Program:
    """The verified compact program, analysed again."""
    module = compact_module(program, dependencies, keep)
    smaller = program.pruned(module, kept, channels_left=None)
    verify_compact(MaskedProgram.of(program, dependencies, keep), smaller)
    return Runner().run(pipelines.reanalysis(), smaller)


def check_replay(model: nn.Module, program: Program, steps: Sequence[Kept]) -> None:
    """The plan, through its JSON, gives a module that computes the same."""
    if not steps:
        return
    plan = Plan(type(model).__name__, program.example, program.kept, tuple(steps))
    replayed = Plan.from_json(plan.to_json()).apply(model)
    with evaluating(replayed):
        found = fx.Interpreter(replayed).run(*program.inputs(), enable_io_processing=False)
    for first, second in zip(run_program(program, program.example), found, strict=True):
        assert first.shape == second.shape
        assert torch.allclose(first, second, rtol=1e-9, atol=1e-9 * float(first.abs().max()))


def check_training(program: Program) -> None:
    """A backward pass reaches some parameter."""
    program.module.train()
    results = program.module(*program.inputs())
    sum(result.square().mean() for result in results).backward()
    assert any(parameter.grad is not None for parameter in program.module.parameters())
    program.module.eval()
