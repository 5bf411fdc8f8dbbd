"""Random small programs: a random walk over ops that knows the layout and the shape of every value.

Everything random comes from one function ``below(n)``, a number in ``range(n)``: hypothesis draws it (and shrinks it),
and a long run takes it from a seeded generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

Below = Callable[[int], int]
Kind = Literal["features", "tokens", "sequence", "image", "nhwc", "volume", "ids"]
Shape = tuple[int, ...]
"""Without the batch."""

LARGEST = 1024
"""Elements per sample that a value may have."""
VOCABULARY = 9

CHANNEL: dict[Kind, int] = {"features": 1, "tokens": 2, "sequence": 1, "image": 1, "nhwc": 3, "volume": 1}
"""The dim of the channels, counted with the batch: ``(N, F)``, ``(N, L, E)``, ``(N, C, L)``, ``(N, C, H, W)``, ..."""


@dataclass(frozen=True)
class Value:
    """What is known of a tensor of the program."""

    kind: Kind
    shape: Shape

    @property
    def dim(self) -> int:
        """The dim of the channels, counted with the batch."""
        return CHANNEL[self.kind]

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.shape[self.dim - 1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """All dims but the batch and the channels, counted with the batch."""
        return tuple(dim for dim in range(1, len(self.shape) + 1) if dim != self.dim)

    def resized(self, width: int) -> Value:
        """The same with another number of channels."""
        shape = list(self.shape)
        shape[self.dim - 1] = width
        return Value(self.kind, tuple(shape))


@dataclass
class Step:
    """One op: the values it reads, the layers, parameters and buffers it uses, and how it computes."""

    text: str
    inputs: tuple[int, ...]
    compute: Callable[..., Tensor]
    parts: tuple[str, ...] = ()


@dataclass
class Builder:
    """Grows a program.

    Attributes:
        below: Gives the random numbers.
        values: One entry per value, the inputs first.
        plain: Leaves out ops that mix statistics over channels.
        mixing: An op that does so is in the program.
        stored: Layers, parameters and buffers by name.
    """

    below: Below
    values: list[Value]
    plain: bool = False
    mixing: bool = False
    steps: list[Step] = field(default_factory=list)
    stored: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = len(self.values)

    def add(self, text: str, inputs: Sequence[int], value: Value, compute: Callable[..., Tensor], *parts: str) -> int:
        """Adds an op; ``compute`` takes the parts, then the inputs."""
        self.steps.append(Step(text, tuple(inputs), compute, parts))
        self.values.append(value)
        return len(self.values) - 1

    def add_layer(self, layer: nn.Module, x: int, value: Value) -> int:
        """Adds a layer of its own and calls it."""
        return self.call(self.store(layer), x, value)

    def call(self, name: str, x: int, value: Value) -> int:
        """Calls a layer that is stored already."""
        return self.add(f"{name} = {self.stored[name]}", [x], value, lambda layer, y: layer(y), name)

    def map(self, text: str, x: int, compute: Callable[..., Tensor], *parts: str) -> int:
        """Adds an op that keeps the shape."""
        return self.add(text, [x], self.values[x], compute, *parts)

    def store(self, part: nn.Module | nn.Parameter | Tensor) -> str:
        """Gives a name to a layer, parameter or buffer."""
        stem = "layer" if isinstance(part, nn.Module) else "weight" if isinstance(part, nn.Parameter) else "buffer"
        name = f"{stem}{len(self.stored)}"
        self.stored[name] = part
        return name

    def parameter(self, *shape: int) -> str:
        """Stores a random parameter."""
        return self.store(nn.Parameter(torch.randn(shape)))

    def choose(self, options: Sequence[Any]) -> Any:
        """One of several."""
        return options[self.below(len(options))]

    def alike(self, x: int) -> list[int]:
        """All values of the same kind and shape, ``x`` included."""
        return [other for other, value in enumerate(self.values) if value == self.values[x]]

    def joinable(self, x: int) -> list[int]:
        """The last values that can be concatenated with ``x`` along the channels, the newest first."""
        mine = self.values[x].resized(0)
        fits = [o for o, v in enumerate(self.values) if v.kind == mine.kind and v.resized(0) == mine]
        return fits[::-1][:4]


@dataclass(frozen=True)
class Op:
    """What a random walk may do next.

    Attributes:
        name: Of the function below.
        kinds: Kinds of values that it takes; whether it suits a particular value only trying tells.
        mixing: Statistics over channels are part of the result.
        grow: Adds the op to a builder, on a value; gives the number of its result, or None where it does not suit.
    """

    name: str
    kinds: tuple[Kind, ...]
    mixing: bool
    grow: Callable[[Builder, int], int | None]


OPS: list[Op] = []


def op(*kinds: Kind, mixing: bool = False) -> Callable[[Callable[[Builder, int], int | None]], Op]:
    """Registers an op for values of some kinds, of all with channels by default."""

    def register(function: Callable[[Builder, int], int | None]) -> Op:
        OPS.append(Op(function.__name__, kinds or tuple(CHANNEL), mixing, function))
        return OPS[-1]

    return register


class RandomProgram(nn.Module):
    """Runs its steps one after the other; every step gives one value.

    Attributes:
        inputs: What its inputs are.
        mixing: Statistics over channels are part of the results.
        decides_by_size: Looks at a size first, which plain torch.fx does not follow.
        takes_list: Its inputs come as one list, which only torch.export captures.
    """

    def __init__(self, builder: Builder, results: Sequence[int], form: str) -> None:
        """Takes what a builder has grown.

        Args:
            builder: The builder.
            results: Numbers of the values that leave the program.
            form: ``"one"``, ``"tuple"``, ``"dict"`` or ``"nested"``.
        """
        super().__init__()
        self.inputs = tuple(builder.values[: builder.inputs])
        self.steps, self.results, self.form = list(builder.steps), tuple(results), form
        self.mixing = builder.mixing
        self.decides_by_size = self.takes_list = False
        for name, part in builder.stored.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor | list[Tensor], y: Tensor | None = None, z: Tensor | None = None) -> Any:
        """All results, in the program's form."""
        values = list(x) if isinstance(x, list) else [each for each in (x, y, z) if each is not None]
        if self.decides_by_size:
            assert values[0].shape[1] > 0
        for step in self.steps:
            parts = [getattr(self, name) for name in step.parts]
            values.append(step.compute(*parts, *(values[index] for index in step.inputs)))
        results = [values[index] for index in self.results]
        match self.form:
            case "dict":
                return {f"out{index}": result for index, result in enumerate(results)}
            case "nested":
                return results[0], {"rest": results[1:]}
            case "tuple":
                return tuple(results)
        return results[0]

    def __str__(self) -> str:
        """The program as text."""
        first = len(self.inputs)
        lines = [f"%{index} = input {value.kind} {value.shape}" for index, value in enumerate(self.inputs)]
        for index, step in enumerate(self.steps):
            parts = f" with {', '.join(step.parts)}" if step.parts else ""
            lines.append(f"%{first + index} = {step.text}{list(step.inputs)}{parts}")
        return "\n".join([*lines, f"return {self.form} {list(self.results)}"])


INPUTS: tuple[Value, ...] = (
    Value("image", (3, 4, 4)), Value("image", (3, 4, 4)), Value("tokens", (4, 5)), Value("features", (7,)),
    Value("sequence", (3, 6)), Value("nhwc", (2, 4, 3)), Value("volume", (2, 2, 3, 3)), Value("ids", (4,)),
)  # fmt: skip


def build(below: Below, ops: Sequence[Op], length: int) -> RandomProgram:
    """A random program of up to ``length`` ops, with one to three inputs and one to five results."""
    inputs = [INPUTS[below(len(INPUTS))] for _ in range((1, 1, 1, 2, 2, 3)[below(6)])]
    builder = Builder(below, list(inputs), plain=below(2) == 0)
    stems = [stem(builder, index) for index in range(len(inputs))]
    value = stems[0]
    for _ in range(length):
        # now and then from an earlier value, so that there are branches, and from each input, so that all are used
        start = value if below(4) else builder.choose([*stems, *range(len(builder.values))])
        value = grown(builder, ops, start, value)
    read = {source for step in builder.steps for source in step.inputs}
    unread = [each for each in range(len(inputs), len(builder.values)) if each not in read and each != value]
    results = [head(builder, each) for each in (value, *unread[-3:])]  # what nobody reads, nobody would check
    if below(6) == 0:
        results.append(builder.choose(range(len(inputs), len(builder.values))))
    forms = ("tuple", "dict", "nested") if len(results) > 1 else ("one", "one", "tuple", "dict")
    return RandomProgram(builder, results, builder.choose(forms)).double().eval()


def grown(builder: Builder, ops: Sequence[Op], start: int, value: int) -> int:
    """Tries one more op on ``start``; gives its result, or ``value`` where the op does not suit."""
    kind, size = builder.values[start].kind, len(builder.values)
    suited = [each for each in ops if kind in each.kinds and not (builder.plain and each.mixing)]
    chosen: Op = builder.choose(suited)
    added = chosen.grow(builder, start)
    if added is None:
        assert len(builder.values) == size, f"{chosen.name} adds steps to a value that does not suit it"
        return value
    builder.mixing |= chosen.mixing
    return reduce_size(builder, added) if prod(builder.values[added].shape) > LARGEST else added


def stem(builder: Builder, x: int) -> int:
    """A first layer, so that there is something to prune."""
    value = builder.values[x]
    if value.kind == "ids":
        width = (4, 6, 8)[builder.below(3)]
        return builder.add_layer(nn.Embedding(VOCABULARY, width), x, Value("tokens", (*value.shape, width)))
    return project(builder, x, (4, 6, 8)[builder.below(3)])


def head(builder: Builder, x: int) -> int:
    """A last layer."""
    return project(builder, x, 3)


def project(builder: Builder, x: int, width: int, *, bias: bool = True) -> int:
    """A layer over the channels alone."""
    value = builder.values[x]
    layers: dict[Kind, Any] = {"sequence": nn.Conv1d, "image": nn.Conv2d, "volume": nn.Conv3d}
    if value.kind in layers:
        layer: nn.Module = layers[value.kind](value.width, width, 1, bias=bias)
    else:
        layer = nn.Linear(value.width, width, bias=bias)
    return builder.add_layer(layer, x, value.resized(width))


def reduce_size(builder: Builder, x: int) -> int:
    """Averages over positions, or projects to few features."""
    value = builder.values[x]
    if not value.spatial:
        return project(builder, x, 8)
    reduced = Value("features", (value.width,))
    return builder.add(f"mean{value.spatial}", [x], reduced, lambda y: y.mean(value.spatial))
