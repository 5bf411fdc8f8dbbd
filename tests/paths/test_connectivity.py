"""What is joined to input and output, against gradients of the network itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.costs.pool import pool_of
from graphprune.labels.dependencies import Dependencies
from graphprune.paths.connectivity import connected_masks, connectivity_of
from graphprune.paths.dead import DeadPaths
from graphprune.program.program import Program
from graphprune.program.tensors import Masks
from tests.small_models import CLASSES, Chain, Dense, Inverted, Mlp, Residual, Transformer, analysed, images


class Grouped(nn.Module):
    """A grouped convolution and a transposed one between plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.up, self.last = nn.ConvTranspose2d(4, 5, 2), nn.Conv2d(5, 3, 1)
        self.fc = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.grouped(functional.relu(self.first(x))))
        out: Tensor = self.fc(functional.relu(self.last(functional.relu(self.up(x)))).mean((2, 3)))
        return out


class Flattened(nn.Module):
    """Several columns of a linear layer belong to one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(2, 4, 5), nn.Linear(16, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(functional.relu(self.fc(functional.relu(self.conv(x)).flatten(1))))
        return out


class Words(nn.Module):
    """Looked up by index; the table is no weight of the pool, and its channels come from the input all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(7, 6), nn.Parameter(torch.randn(5, 6))
        self.fc, self.head = nn.Linear(6, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(functional.relu(self.fc(self.table(x) + self.places)).mean(1))
        return out


class Products(nn.Module):
    """Weights that are no layers: on the right and, turned, on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(4, 7))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(torch.matmul(x, self.right))
        out: Tensor = self.head(functional.relu(functional.linear(hidden, self.left)))
        return out


class Narrow(nn.Module):
    """One channel alone between layers, which has no label: of a convolution, of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.single, self.wide = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 1, 1), nn.Conv2d(1, 5, 3, padding=1)
        self.fc, self.one, self.two = nn.Linear(5, 1), nn.Linear(1, 6), nn.Linear(6, 1)
        self.head = nn.Linear(1, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.single(functional.relu(self.first(x))))
        x = functional.relu(self.fc(functional.relu(self.wide(x)).mean((2, 3))))
        out: Tensor = self.head(functional.relu(self.two(functional.relu(self.one(x)))))
        return out


class Gated(nn.Module):
    """One channel that many are multiplied with, added to, and concatenated with."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gate, self.shift = nn.Linear(5, 6), nn.Linear(5, 1), nn.Linear(6, 1)
        self.mid, self.head = nn.Linear(7, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = functional.relu(self.fc(x)), self.gate(x)
        hidden = hidden * gate + self.shift(hidden)
        out: Tensor = self.head(functional.relu(self.mid(torch.cat([hidden, gate], 1))))
        return out


class Query(nn.Module):
    """A learned vector, projected, that data is multiplied with: itself a constant, its product none."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.project = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 6)
        self.fc, self.head = nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(functional.relu(self.fc(x)) * self.project(self.query.expand(len(x), -1)))
        return out


class Tied(nn.Module):
    """One weight from left to right and back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.weight = nn.Linear(5, 4), nn.Parameter(torch.randn(6, 4))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(functional.linear(self.fc(x), self.weight))
        out: Tensor = self.head(functional.relu(functional.linear(hidden, self.weight.t())))
        return out


class Outer(nn.Module):
    """All pairs of two dims' channels."""

    def __init__(self, pairs: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.pairs = pairs
        self.one, self.two = nn.Linear(5, 4), nn.Linear(5, 6)
        self.first, self.head = nn.Linear(4, 5), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.pairs(1 + self.one(x), 1 + self.two(x))
        out: Tensor = self.head(torch.relu(self.first(pairs.transpose(1, 2))).sum(-1))
        return out


class Gram(nn.Module):
    """All pairs of the channels of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(5, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = 1 + self.fc(x)
        out: Tensor = self.head((hidden[:, :, None] * hidden[:, None, :]).sum(1))
        return out


class Scaled(nn.Module):
    """Channels times a number that the input gives."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(5, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((1 + self.fc(x)) * x.mean(1, keepdim=True))
        return out


class Between(nn.Module):
    """Something between two layers, given the channels and the input."""

    def __init__(self, between: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.between, self.fc, self.head = between, nn.Linear(5, 6), nn.Linear(6, CLASSES)
        self.square = nn.Parameter(torch.rand(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.between(self, torch.relu(self.fc(x)), x))
        return out


def without_rows(model: Any, hidden: Tensor, x: Tensor) -> Tensor:
    hidden = hidden * 1
    hidden[x[:, 0] > 0.5] = 0
    return hidden


def attended(model: Any, hidden: Tensor, x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(hidden[None], hidden[None], hidden[None])[0]


def weighed(model: Any, hidden: Tensor, x: Tensor) -> Tensor:
    """By shares that a layer makes of a constant: each of its rows gets into all."""
    return hidden * functional.linear(model.square[0], model.square).softmax(0)


BETWEEN: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "scaled weight": lambda model, hidden, x: hidden + functional.linear(hidden, model.square * 2),
    "product of weights": lambda model, hidden, x: hidden @ (model.square.t() @ model.square),
    "symmetric": lambda model, hidden, x: functional.linear(hidden, model.square + model.square.t()),
    "attention on itself": attended,
    "shares of a constant": weighed,
    "rows by data": without_rows,
    "addmm": lambda model, hidden, x: hidden + torch.addmm(x.mean(1, keepdim=True), hidden, model.square),
    "corner of all pairs": lambda model, hidden, x: (hidden[:, :, None] * (1 + hidden)[:, None]).flatten(1)[:, :6],
}


def tokens() -> Tensor:
    return torch.randn(3, 5, 4)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "chain": (Chain, images),
    "mlp": (Mlp, lambda: torch.randn(4, 5)),
    "residual": (Residual, images),
    "depthwise": (Inverted, images),
    "concat": (Dense, images),
    "grouped": (Grouped, images),
    "flattened": (Flattened, images),
    "products": (Products, lambda: torch.randn(4, 5)),
    "transformer": (Transformer, tokens),
    "narrow": (Narrow, images),
}

MIXED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "gated": (Gated, lambda: torch.randn(4, 5)),
    "query": (Query, lambda: torch.randn(4, 5)),
    "tied": (Tied, lambda: torch.randn(4, 5)),
    "outer sum": (lambda: Outer(lambda one, two: one[:, :, None] + two[:, None, :]), lambda: torch.randn(4, 5)),
    "outer product": (lambda: Outer(lambda one, two: one[:, :, None] * two[:, None, :]), lambda: torch.randn(4, 5)),
    "outer matmul": (lambda: Outer(lambda one, two: one[:, :, None] @ two[:, None, :]), lambda: torch.randn(4, 5)),
    "gram": (Gram, lambda: torch.randn(4, 5)),
    "scaled": (Scaled, lambda: torch.randn(4, 5)),
    **{name: (partial(Between, between), lambda: torch.randn(4, 5)) for name, between in BETWEEN.items()},
}
"""Where more counts as joined than is."""


def positive(model: nn.Module) -> nn.Module:
    """Weights above 0, so that no two paths cancel; rows sum to about 1, for a ReLU6 must not saturate."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter.abs() + 0.05) / (parameter[0].numel() if parameter.dim() > 1 else 4))
    return model.double()


def random_masks(program: Program, share: float, seed: int) -> Masks:
    """Dead rows, columns and single weights.

    Depthwise filters stay, for a dead one counts as passing its channel on; what reads the channels before a product
    reads all. What happens to one group of a grouped convolution happens to the other, for the same index of all groups
    is one channel.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in pool_of(program).items():
        # whole rows and columns, so that something is cut, and single weights
        rows, columns = (torch.rand(weight.shape[dim], generator=generator) >= share for dim in (0, 1))
        shape = (-1, *[1] * (weight.dim() - 1)), (1, -1, *[1] * (weight.dim() - 2))
        mask = torch.rand(weight.shape, generator=generator) >= share
        mask = mask & rows.view(shape[0]) & columns.view(shape[1])
        masks[name] = torch.ones_like(mask) if name in ("depth.weight", "squeeze.weight") else mask
    if "grouped.weight" in masks:
        for name, half in (("grouped.weight", 2), ("first.weight", 3)):
            masks[name][half:] = masks[name][:half]
        masks["up.weight"][2:] = masks["up.weight"][:2]
    return masks


@contextmanager
def outputs_of_layers(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The result of each layer in the next run, its channels last."""
    found: dict[str, Tensor] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            found[name] = output
            return output

        return hook

    handles = [
        module.register_forward_hook(noting(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.LayerNorm))
    ]
    yield found
    for handle in handles:
        handle.remove()


def gradient(output: Tensor, wanted: Tensor) -> Tensor:
    """Zeros where there is none."""
    (found,) = torch.autograd.grad(output, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


def oracle(
    model: nn.Module, masks: Masks, example: Tensor, dependencies: Dependencies
) -> tuple[Tensor, Tensor, set[tuple[str, int]]]:
    """Channels that the input has a gradient in, those that the outputs have one in, and outputs that have none."""
    masked = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    x = (example.abs() + 0.1).double().requires_grad_()
    with outputs_of_layers(masked) as layers:
        result = masked(x)
    reached, useful = (torch.zeros(dependencies.channels, dtype=torch.bool) for _ in range(2))
    projection = torch.rand_like(result)
    classes = dependencies.classes()
    for name, value in layers.items():
        transposed = isinstance(masked.get_submodule(name), nn.ConvTranspose2d)
        row = f"{name}.weight", 1 if transposed else 0
        channels = classes.get(row, torch.tensor([-1]))  # one alone
        dim = 1 if value.dim() == 4 else value.dim() - 1
        back = gradient((result * projection).sum(), value)
        for index, channel in enumerate(channels.tolist()):
            if channel < 0:
                continue
            reached[channel] |= bool(gradient(value.select(dim, index).sum(), x).any())
            useful[channel] |= bool(back.select(dim, index).any())
    cut = {index for index in range(result.shape[1]) if not bool(gradient(result[:, index].sum(), x).any())}
    last = list(layers)[-1]
    return reached, useful, {(f"{last}.weight", index) for index in cut}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("name", MODELS)
def test_against_gradients(name: str, share: float) -> None:
    build, example = MODELS[name]
    model, inputs = positive(build()), example()
    program, dependencies = analysed(model, inputs.double())
    found_dead = 0
    for seed in range(6):
        masks = random_masks(program, share, seed)
        masked = program.masked(masks)
        found = connectivity_of(masked)
        reached, useful, cut = oracle(model, masks, inputs, dependencies)
        if name == "products":  # its first weight is no layer, so the gradient is looked at only behind the second
            seen = dependencies.classes()["head.weight", 1]
            assert found.reached[seen].tolist() == _linear_reach(masks)
        else:
            assert found.reached.tolist() == reached.tolist()
            assert found.useful.tolist() == useful.tolist()
        assert set(found.cut) == cut
        assert found.outputs == CLASSES and found.connected == (not cut)
        found_dead += int((~found.alive).sum())
        check_that_nothing_changes(model, masks, connected_masks(masked), inputs)
    assert (found_dead > 0) == (share > 0)


def _linear_reach(masks: Masks) -> list[bool]:
    hidden = masks["right"].any(0)
    return [bool((row & hidden).any()) for row in masks["left"]]


def check_that_nothing_changes(model: nn.Module, masks: Masks, connected: Masks, inputs: Tensor) -> None:
    """The gradient in the input is what it was without the weights that are not on a path."""
    results = []
    for live in (masks, connected):
        masked = copy.deepcopy(model).eval()
        with torch.no_grad():
            for name, parameter in masked.named_parameters():
                if name in live:
                    parameter.mul_(live[name])
                if name.endswith("bias"):  # what a dead channel's bias gave is a constant, and may shift others
                    parameter.zero_()
        x = (inputs.abs() + 0.1).double().requires_grad_()
        results.append(torch.autograd.grad(masked(x).square().sum(), x, allow_unused=True)[0])
        assert all(bool((live[name] <= masks[name]).all()) for name in masks)
    # the same products in another order of sums
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*MODELS, *MIXED])
def test_nothing_is_called_dead_that_is_not(name: str) -> None:
    """Also where groups and depthwise filters are hit at random."""
    build, example = (MODELS | MIXED)[name]
    model, inputs = positive(build()), example()
    program, dependencies = analysed(model, inputs.double())
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        masks = {key: torch.rand(w.shape, generator=generator) >= 0.7 for key, w in pool_of(program).items()}
        found = connectivity_of(program.masked(masks))
        reached, useful, cut = oracle(model, masks, inputs, dependencies)
        assert not bool((reached & ~found.reached).any()) and not bool((useful & ~found.useful).any())
        assert set(found.cut) <= cut
        check_that_nothing_changes(model, masks, connected_masks(program.masked(masks)), inputs)


def test_every_weight_that_is_left_matters() -> None:
    """Of a network without activations, each weight on a path changes an output, and each other one none."""
    model = positive(Mlp(activation=lambda x: x))
    program, _ = analysed(model, torch.randn(2, 5).double())
    masked = program.masked(random_masks(program, 0.4, 3))
    connected = connected_masks(masked)
    with torch.no_grad():
        for name, mask in masked.history.masks.items():
            model.get_parameter(name).mul_(mask)
            model.get_parameter(name.replace("weight", "bias")).zero_()
    model(torch.rand(2, 5).double()).sum().backward()
    for name, mask in masked.history.masks.items():
        slope = model.get_parameter(name).grad
        assert slope is not None
        assert torch.equal((slope != 0) & mask, connected[name])


def test_a_chain_that_is_cut_loses_all_channels_and_outputs() -> None:
    program, dependencies = analysed(Mlp(), torch.randn(2, 5))
    masks = {"fc2.weight": torch.zeros(6, 8, dtype=torch.bool)}
    found = connectivity_of(program.masked(masks))
    first, second = (dependencies.classes()[f"{name}.weight", 0] for name in ("fc1", "fc2"))
    assert bool(found.reached[first].all()) and not bool(found.useful[first].any())
    assert not bool(found.reached[second].any()) and bool(found.useful[second].all())
    assert found.cut == tuple(("head.weight", index) for index in range(CLASSES)) and not found.connected
    told = found.to_dict()
    assert told["unreachable"] == second.tolist() and told["useless"] == first.tolist() and told["channels"] == 14
    assert not any(bool(mask.any()) for mask in connected_masks(program.masked(masks)).values())


def test_a_dead_depthwise_filter_passes_its_channel_on_and_dies_with_it() -> None:
    program, dependencies = analysed(Inverted(), images())
    channels = dependencies.classes()["expand.weight", 0]
    depth = torch.ones(8, 1, 3, 3, dtype=torch.bool)
    depth[2] = False
    assert bool(connectivity_of(program.masked({"depth.weight": depth})).alive.all())
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in pool_of(program).items()}
    for name in ("project.weight", "squeeze.weight"):
        masks[name][:, 5] = False
    program = program.masked(masks)
    assert (~connectivity_of(program).useful).nonzero().flatten().tolist() == [int(channels[5])]
    connected = connected_masks(program)
    assert not bool(connected["depth.weight"][5].any()) and bool(connected["depth.weight"][4].all())
    assert not bool(connected["expand.weight"][5].any()) and not bool(connected["excite.weight"][5].any())


def test_channels_of_a_table_come_from_the_input() -> None:
    program, dependencies = analysed(Words(), torch.randint(7, (3, 5)))
    dead = torch.ones(4, 6, dtype=torch.bool)
    dead[:, 2] = False
    found = connectivity_of(program.masked({"fc.weight": dead}))
    table = dependencies.classes()["table.weight", 1]
    assert bool(found.reached.all()) and (~found.useful).nonzero().flatten().tolist() == [int(table[2])]


def test_protected_weights_are_paths_that_stay() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5), protect=("fc2.weight",))
    masks = {"fc1.weight": torch.zeros(8, 5, dtype=torch.bool)}
    found = connectivity_of(program.masked(masks))
    assert "fc2.weight" not in connected_masks(program.masked(masks))
    assert not found.connected and found.cut_outputs == CLASSES
    masks["fc1.weight"][3, 2] = True
    assert connectivity_of(program.masked(masks)).connected


def test_two_outputs_and_a_sum_of_heads() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 2)
            self.other = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.fc(x))
            return self.one(x) + self.two(x), self.other(x)

    program, _ = analysed(Heads(), torch.randn(2, 5))
    dead = torch.zeros(2, 6, dtype=torch.bool)
    other = torch.ones(4, 6, dtype=torch.bool)
    other[3] = False
    found = connectivity_of(program.masked({"one.weight": dead, "other.weight": other}))
    assert found.outputs == 6 and found.cut == (("other.weight", 3),)
    found = connectivity_of(program.masked({"one.weight": dead, "two.weight": dead}))
    assert {name for name, _ in found.cut} == {"one.weight", "two.weight"} and len(found.cut) == 4
    assert found.cut_outputs == 2, "each of them is a sum of two rows"


@pytest.mark.parametrize("tail", [nn.Identity(), nn.Sigmoid(), nn.Flatten(0)], ids=["plain", "sigmoid", "flat"])
def test_one_output_alone(tail: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1), tail)
    program, _ = analysed(model, torch.randn(2, 5))
    assert connectivity_of(program).outputs == 1 and connectivity_of(program).connected
    found = connectivity_of(program.masked({"2.weight": torch.zeros(1, 6, dtype=torch.bool)}))
    assert found.cut == (("2.weight", 0),) and found.cut_outputs == 1
    assert bool(found.reached.all()) and not bool(found.useful.any())


def test_one_output_made_of_two_heads() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.other = nn.Linear(5, 1), nn.Linear(5, 1), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x) + self.two(x), self.other(x)

    program, _ = analysed(Heads(), torch.randn(2, 5))
    dead = torch.zeros(1, 5, dtype=torch.bool)
    found = connectivity_of(program.masked({"one.weight": dead}))
    assert found.outputs == 4 and found.connected
    found = connectivity_of(program.masked({"one.weight": dead, "two.weight": dead}))
    assert found.cut_outputs == 1 and set(found.cut) == {("one.weight", 0), ("two.weight", 0)}


class Beside(nn.Module):
    """A head, and what else gets into its outputs or is done with them."""

    def __init__(self, end: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.end, self.fc, self.head = end, nn.Linear(5, 4), nn.Linear(4, 5)
        self.one = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(torch.relu(self.fc(x))), self.one(x))


@pytest.mark.parametrize(
    ("end", "outputs", "cut"),
    [
        (lambda out, one: out, 5, 5),
        (lambda out, one: torch.relu(out.unsqueeze(-1)), 5, 5),
        (lambda out, one: out + one, 5, 0),
        (lambda out, one: torch.addcmul(out, out, one), 5, 0),
        (lambda out, one: torch.cat([out, one], 1), 6, 5),
        (lambda out, one: torch.cumsum(out.sort(1).values, 1), 1, 1),
        (lambda out, one: torch.stack([out, one.expand(-1, 5)]).sum(0), 5, 0),
        (lambda out, one: functional.layer_norm(out, (5,), weight=one[0].expand(5)), 5, 0),
        (lambda out, one: out.index_add(0, (one[:, 0] > 0).long(), torch.ones_like(out)), 5, 0),
        (lambda out, one: written(out, one), 5, 0),
    ],
    ids=["plain", "shown", "sum", "addcmul", "beside", "labels are lost", "stack", "scale", "added rows", "written"],
)
def test_what_else_gets_into_an_output(end: Callable[[Tensor, Tensor], Tensor], outputs: int, cut: int) -> None:
    program, _ = analysed(Beside(end), torch.randn(2, 5))
    assert connectivity_of(program).outputs == outputs and connectivity_of(program).connected
    found = connectivity_of(program.masked({"head.weight": torch.zeros(5, 4, dtype=torch.bool)}))
    assert (found.outputs, found.cut_outputs) == (outputs, cut)
    assert found.cut == tuple(("head.weight", index) for index in range(5 if cut else 0))


def written(out: Tensor, one: Tensor) -> Tensor:
    """One column of it; the others are as they were, which is not told."""
    out = out * 1
    out[:, 1] += one[:, 0]
    return out


@pytest.mark.parametrize(
    "end",
    [torch.softmax, torch.cumsum, lambda out, dim: functional.layer_norm(out, (5,))],
    ids=["softmax", "sums", "norm"],
)
def test_outputs_that_get_into_each_other_are_cut_together(end: Callable[[Tensor, int], Tensor]) -> None:
    program, _ = analysed(Beside(lambda out, one: end(out, 1)), torch.randn(2, 5))
    masks = {"head.weight": torch.zeros(5, 4, dtype=torch.bool)}
    assert connectivity_of(program.masked(masks)).cut_outputs == 5
    masks["head.weight"][2, 1] = True
    assert connectivity_of(program.masked(masks)).connected


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.LSTM(5, 3, batch_first=True),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)),
        lambda: nn.Bilinear(5, 5, 3),
    ],
    ids=["lstm", "weight norm", "bilinear"],
)
def test_a_layer_that_is_not_followed_reaches_an_output(layer: Callable[[], nn.Module]) -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = layer(), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            made = self.layer(x, x) if isinstance(self.layer, nn.Bilinear) else self.layer(x)
            out: Tensor = (made[0] if isinstance(made, tuple) else made) + self.head(x)
            return out

    program, _ = analysed(Added(), torch.randn(2, 4, 5))
    masks = {"head.weight": torch.zeros(3, 5, dtype=torch.bool)}
    assert connectivity_of(program.masked(masks)).connected


@pytest.mark.parametrize(
    "norm",
    [nn.RMSNorm(6), nn.LayerNorm(6), lambda hidden: hidden / (1 + hidden.sum(1, keepdim=True))],
    ids=["rms", "layer", "by hand"],
)
def test_collapse_is_told_through_what_all_channels_share(norm: Callable[[Tensor], Tensor]) -> None:
    program, _ = analysed(Between(lambda model, hidden, x: norm(hidden)), torch.randn(2, 5))
    found = connectivity_of(program.masked({"fc.weight": torch.zeros(6, 5, dtype=torch.bool)}))
    assert not bool(found.reached.any()) and found.cut_outputs == CLASSES


@pytest.mark.parametrize("skip", [lambda x: x, lambda x: x.mean(1, keepdim=True)], ids=["input", "mean"])
def test_outputs_that_the_input_skips_to_are_not_cut(skip: Callable[[Tensor], Tensor]) -> None:
    class Skipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(5, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.fc(x))) + skip(x)
            return out

    program, _ = analysed(Skipped(), torch.randn(2, 5))
    masks = {"head.weight": torch.zeros(5, 4, dtype=torch.bool)}
    assert connectivity_of(program.masked(masks)).connected


def test_a_report_of_outputs_that_are_not_looked_at_says_so() -> None:
    told = str(DeadPaths(3, 0, 0, 0, 0))
    assert "not looked at" in told and "all" not in told


def test_what_is_written_in_place_depends_on_both() -> None:
    """A view of a tensor that one frozen channel makes is added to: the tensor depends on the input then."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Linear(5, 1), nn.Linear(1, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            made = self.one(x)
            made[:, :1].add_(x[:, :1])
            out: Tensor = self.head(made)
            return out

    program, _ = analysed(Added(), torch.randn(2, 5))
    assert connectivity_of(program.masked({"one.weight": torch.zeros(1, 5, dtype=torch.bool)})).connected
