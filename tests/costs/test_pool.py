"""Which weights may become zero one by one, for each way in which a model can hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.costs.pool import full_weights, live_of, pool_of
from tests.scoring import with_dead_weights
from tests.small_models import CLASSES, IMAGES, Chain, Mlp, analysed, images


class Attention(nn.Module):
    """One input for all three, or three."""

    def __init__(self, *, cross: bool) -> None:
        super().__init__()
        self.cross, self.embed, self.head = cross, nn.Linear(4, 8), nn.Linear(8, CLASSES)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        mixed, _ = self.attention(x, x.flip(1), 2 * x) if self.cross else self.attention(x, x, x)
        out: Tensor = self.head(mixed.mean(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, num_layers=2, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class Functional(nn.Module):
    """Weights of functions, one transposed before, one on the right of a product, and one that is only added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.turned = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(8, 6))
        self.right, self.position = nn.Parameter(torch.randn(6, CLASSES)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(functional.linear(x, self.first) + self.position)
        return (functional.linear(x, self.turned.t()) @ self.right).mean(1)


class Tied(nn.Module):
    """An embedding whose weight is that of the last layer, and a layer that is there under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
        self.mix, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head.weight, self.again.weight = self.embed.weight, self.mix.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.again(torch.relu(self.mix(self.embed(x))))).mean(1))
        return out


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.groups = nn.ConvTranspose1d(5, 6, 3), nn.Conv1d(6, 6, 3, groups=3)
        self.depth, self.norm, self.head = nn.Conv1d(6, 6, 3, groups=6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(torch.relu(self.up(x)), (2, 2))
        out: Tensor = self.head(self.norm(self.depth(self.groups(x))).mean(2))
        return out


def parametrized(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), change(nn.Linear(20, 8)), nn.ReLU(), nn.Linear(8, CLASSES))


TOKENS = torch.randn(2, 5, 4)

POOLS: dict[str, tuple[Callable[[], nn.Module], Tensor, list[str]]] = {
    "attention": (
        lambda: Attention(cross=False), TOKENS,
        ["embed.weight", "head.weight", "attention.in_proj_weight", "attention.out_proj.weight"],
    ),
    "cross attention": (
        lambda: Attention(cross=True), TOKENS,
        ["embed.weight", "head.weight", "attention.in_proj_weight", "attention.out_proj.weight"],
    ),
    "lstm": (
        Recurrent, TOKENS,
        ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l1", "lstm.weight_hh_l1", "head.weight"],
    ),
    "functions": (Functional, TOKENS, ["first", "turned", "right"]),
    "tied": (Tied, torch.randint(7, (2, 5)), ["embed.weight", "mix.weight"]),
    "groups": (Grouped, TOKENS, ["up.weight", "groups.weight", "depth.weight", "head.weight"]),
    "weight norm": (
        lambda: parametrized(nn.utils.parametrizations.weight_norm), TOKENS,
        ["1.parametrizations.weight.original1", "3.weight"],
    ),
    "spectral norm": (
        lambda: parametrized(nn.utils.parametrizations.spectral_norm), TOKENS,
        ["1.parametrizations.weight.original", "3.weight"],
    ),
    "orthogonal": (lambda: parametrized(nn.utils.parametrizations.orthogonal), TOKENS, ["3.weight"]),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
def test_weights_of_each_kind_of_layer(name: str) -> None:
    factory, example, expected = POOLS[name]
    program, _ = analysed(factory(), example)
    pool = pool_of(program)
    assert sorted(pool) == sorted(expected)
    order = [key for key, _ in program.module.named_parameters() if key in pool]
    assert list(pool) == order
    assert all(pool[key] is program.module.get_parameter(key) for key in pool)


@pytest.mark.parametrize("name", IMAGES)
def test_of_convolutional_networks_all_weights_of_convolutions_and_linear_layers(name: str) -> None:
    model = IMAGES[name]()
    program, _ = analysed(model, images())
    layers = [key for key, each in model.named_modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    assert list(pool_of(program)) == [f"{key}.weight" for key in layers]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("fc1", ["fc2.weight", "head.weight"]), ("fc?.weight", ["head.weight"]), ("fc1.bias", ["fc1.weight", "fc2.weight",
                                                                                            "head.weight"])],
)  # fmt: skip
def test_what_is_protected_is_not_in_the_pool(pattern: str, left: list[str]) -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5), (pattern,))
    assert list(pool_of(program)) == left


def test_a_zero_of_a_weight_norm_is_a_zero_of_the_weight() -> None:
    """The direction's zeros are those of the product; the length's would be whole rows."""
    program, _ = analysed(parametrized(nn.utils.parametrizations.weight_norm), TOKENS)
    dead = with_dead_weights(program)
    name = "1.parametrizations.weight.original1"
    weight = program.module.get_submodule("1").weight
    assert isinstance(weight, Tensor)
    assert torch.equal(weight != 0, dead.history.masks[name])


def test_full_weights_are_the_present_ones_or_those_that_were() -> None:
    program, _ = analysed(Chain(), images())
    before = {name: weight.detach().clone() for name, weight in pool_of(program).items()}
    dead = with_dead_weights(program, dormant=True)
    assert all(torch.equal(full, before[name]) for name, full in full_weights(dead).items())
    with torch.no_grad():  # training moves the live ones on
        for weight in pool_of(dead).values():
            weight.add_(1.0)
    for name, full in full_weights(dead).items():
        live = live_of(dead, name, full)
        assert torch.equal(full[~live], before[name][~live])
        assert torch.equal(full[live], pool_of(dead)[name][live])
    held = full_weights(replace(dead, history=replace(dead.history, dormant={})))
    assert all(torch.equal(full, pool_of(dead)[name]) for name, full in held.items())
    assert bool(live_of(dead.masked({}), "fc.weight", before["fc.weight"]).all())
