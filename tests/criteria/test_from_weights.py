"""GraSP and SynFlow of channels are sums over the rows that make them; which rows these are."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.costs.pool import pool_of
from graphprune.criteria import CRITERIA, GraspOfChannels, SynflowOfChannels
from graphprune.criteria.criterion import scores_of
from graphprune.criteria.from_weights import channel_scores, making_dims
from graphprune.criteria.weights import WEIGHT_CRITERIA, Grasp
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from tests.costs.test_pool import TOKENS, Attention, Functional, Grouped, Recurrent
from tests.scoring import batches_like, prepared, sensitivity, with_dead_weights
from tests.small_models import CLASSES, Dense, Inverted, Mlp, Residual, Transformer, group_of, images


def of_group(program: Program, importance: Tensor, member: str, dim: int = 0) -> Tensor:
    group = group_of(program[Dependencies], member, dim)
    return importance[group.start : group.stop]


@pytest.mark.parametrize(
    ("factory", "example", "expected"),
    [
        (Residual, images(), {}),
        (Inverted, images(), {}),
        (Dense, images(), {}),
        (Transformer, TOKENS, {}),
        (lambda: Attention(cross=True), TOKENS, {}),
        (Recurrent, TOKENS, {}),
        (Functional, TOKENS, {"turned": {1}}),
        (Grouped, TOKENS, {"up.weight": {1}}),
    ],
)
def test_which_dims_make_channels(
    factory: Callable[[], nn.Module], example: Tensor, expected: dict[str, set[int]]
) -> None:
    """Outputs: dim 0 of most weights, dim 1 of transposed ones; frozen ones hold no channels."""
    program = prepared(factory(), example)
    frozen = {"head.weight", "fc.weight", "right"}
    assert making_dims(program) == {
        name: set() if name in frozen else expected.get(name, {0}) for name in pool_of(program)
    }


class Through(nn.Module):
    """The result of a transposed convolution is added to its input: both dims hold the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.fc = nn.Conv2d(2, 6, 1), nn.ConvTranspose2d(6, 6, 3, padding=1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out: Tensor = self.fc((x + self.up(x)).mean((2, 3)))
        return out


def test_the_layer_decides_where_channels_are_on_both_sides() -> None:
    program = prepared(Through(), images())
    assert making_dims(program) == {"stem.weight": {0}, "up.weight": {1}, "fc.weight": set()}


@pytest.mark.parametrize("name", ["grasp", "synflow"])
def test_a_residual_stream_and_a_depthwise_convolution(name: str) -> None:
    for factory, member, rows in (
        (Residual, "stem.weight", ["stem.weight", "conv2.weight"]),
        (Residual, "conv1.weight", ["conv1.weight"]),
        (Inverted, "expand.weight", ["expand.weight", "depth.weight", "excite.weight"]),
    ):
        program = with_dead_weights(prepared(factory(), images()))
        batches = batches_like(images().double(), 3, 2)
        found = scores_of(CRITERIA[name], program, sensitivity(batches))
        single = WEIGHT_CRITERIA[name](program, sensitivity(batches))
        expected = sum((single.importance[row].flatten(1).sum(1) for row in rows), torch.zeros(1).double())
        torch.testing.assert_close(of_group(program, found.importance, member), expected, rtol=1e-9, atol=1e-20)
        assert (found.criterion, found.loss, found.samples) == (name, single.loss, single.samples)


def test_columns_of_a_transposed_convolution_and_channels_of_a_grouped_one() -> None:
    """A channel of the convolution in three groups of two is a whole group."""
    program = prepared(Grouped(), TOKENS)
    single = WEIGHT_CRITERIA["synflow"](program, sensitivity(None)).importance
    found = SynflowOfChannels()(program, sensitivity(None)).importance
    rows = single["up.weight"].sum((0, 2)) + single["groups.weight"].sum((1, 2)) + single["depth.weight"].sum((1, 2))
    torch.testing.assert_close(of_group(program, found, "depth.weight"), rows.view(3, 2).sum(1), rtol=1e-12, atol=0)


def test_synflow_is_the_flow_through_a_channel() -> None:
    """What comes in goes out: the sum over a unit's outgoing weights is that over its incoming ones."""
    program = prepared(Mlp(), torch.randn(2, 5))
    single = WEIGHT_CRITERIA["synflow"](program, sensitivity(None)).importance
    found = SynflowOfChannels()(program, sensitivity(None)).importance
    torch.testing.assert_close(of_group(program, found, "fc1.weight"), single["fc2.weight"].sum(0), rtol=1e-12, atol=0)


def test_grasp_removes_first_what_hinders_the_gradient_flow() -> None:
    example, data = torch.randn(2, 5), batches_like(torch.randn(1, 5), 20)
    model = Mlp((12, 10), torch.tanh)
    program = prepared(model, example)
    found = GraspOfChannels(1.0)(program, sensitivity([(x.double(), y) for x, y in data])).importance
    assert float(found.min()) < 0 < float(found.max())
    compiled = graphprune.compile(
        model.float(), example, sparsity=0.25, criterion=GraspOfChannels(1.0), schedule="one-shot", data=data
    )
    kept = torch.cat([compiled.plan.kept.get((f"{name}.weight", 0), torch.arange(size))
                      + start for name, size, start in (("fc1", 12, 0), ("fc2", 10, 12))])  # fmt: skip
    removed = torch.ones(22, dtype=torch.bool).index_fill_(0, kept, False)
    assert sorted(removed.nonzero().flatten().tolist()) == sorted(found.argsort()[: int(removed.sum())].tolist())


@pytest.mark.parametrize("temperature", [0.0, -2.0])
def test_temperatures_that_make_no_sense(temperature: float) -> None:
    with pytest.raises(OptionError, match="expected a number greater than 0"):
        GraspOfChannels(temperature)
    assert GraspOfChannels(200.0) == GraspOfChannels()
    assert Grasp() == WEIGHT_CRITERIA["grasp"]


class Product(nn.Module):
    """A weight on the right of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(x @ self.first))
        return out


def test_a_weight_on_the_right_of_a_product_has_columns() -> None:
    program = prepared(Product(), torch.randn(2, 5))
    assert making_dims(program) == {"first": {1}, "head.weight": set()}
    found = SynflowOfChannels()(program, sensitivity(None)).importance
    first, head = (weight.detach().abs() for weight in pool_of(program).values())
    torch.testing.assert_close(found, first.sum(0) * head.sum(0), rtol=1e-12, atol=0)


class Embedded(nn.Module):
    """No weight of a layer that multiplies makes the embedding's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(7, 8), nn.Linear(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(self.embed(x))).mean(1))
        return out


def test_channels_that_no_weight_makes_go_last(caplog: pytest.LogCaptureFixture) -> None:
    program = prepared(Embedded(), torch.randint(7, (2, 5)))
    criterion = SynflowOfChannels()
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        for run in (sensitivity(None), sensitivity(None)):  # each warns in the first round
            for _ in range(2):
                importance = criterion(program, run).importance
    assert caplog.messages == ["criterion synflow cannot rate 1 of 2 groups; they go last: g0 (embed.weight)"] * 2
    assert float(of_group(program, importance, "embed.weight", 1).min()) > float(
        of_group(program, importance, "body.weight").max()
    )
    with pytest.raises(OptionError, match=r"synflow: it rates none of the 2 groups .* for no weight makes"):
        channel_scores(program, {}, "synflow", set())
