"""strict: what is frozen for want of a rule or a rewriting, told from what the program or its user needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.coupling.gaps import gaps
from graphprune.errors import FrozenError
from graphprune.rewrite.literals import RESIZERS
from tests.small_models import CLASSES, IMAGES, Transformer, Windows, analysed, images
from tests.unknown_op import unknown


class Reversed(nn.Module):
    """An unknown op on the channels of the first layer, before a depthwise and a full convolution."""

    def __init__(self, *, by_export: bool = False) -> None:
        super().__init__()
        self.conv1, self.depth = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, groups=6)
        self.conv2, self.fc = nn.Conv2d(6, 4, 1), nn.Linear(4, CLASSES)
        self.by_export = by_export

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.by_export and len(x) < 1:
            return x
        x = unknown(x)
        out: Tensor = self.fc(torch.relu(self.conv2(self.depth(x))).mean((2, 3)))
        return out


class Twice(nn.Module):
    """Two ops without a rule, apart from each other, and a table of looked-up rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.fc1, self.fc2, self.head = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = unknown(self.fc1(self.table(tokens)).mean(1))
        x = unknown(self.fc2(x)).relu()
        out: Tensor = self.head(x)
        return out


def lost_to(model: nn.Module, example: Tensor, protect: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """What each gap froze, by its node."""
    program, _ = analysed(model, example, protect)
    return {gap.cause.node: {str(lost) for lost in gap.lost} for gap in gaps(program)}


REVERSED = {"conv1.weight[0]", "conv1.bias[0]", "depth.weight[0]", "depth.bias[0]", "conv2.weight[1]"}


@pytest.mark.parametrize("by_export", [False, True])
def test_a_missing_rule_and_what_it_froze_also_further_down(by_export: bool) -> None:
    (lost,) = lost_to(Reversed(by_export=by_export), images()).values()
    assert lost == REVERSED


def test_every_gap_by_itself() -> None:
    assert lost_to(Twice(), torch.randint(7, (2, 4))) == {
        "unknown": {"fc1.weight[0]", "fc1.bias[0]", "fc2.weight[1]"},
        "unknown_1": {"fc2.weight[0]", "fc2.bias[0]", "head.weight[1]"},
    }


def test_what_is_protected_is_not_lost_nor_what_it_would_hold() -> None:
    assert lost_to(Reversed(), images(), protect=("conv1",)) == {}


def test_some_indices_of_a_dim() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(5, 8), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.fc(x))
            out: Tensor = self.head(torch.cat([x[:, :5], unknown(x[:, 5:])], 1))
            return out

    assert lost_to(Half(), torch.randn(2, 5)) == {"unknown": {"fc.weight[0] (3 of 8)", "fc.bias[0] (3 of 8)"}}


WHOLE: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    *((build, (4, 2, 6, 6)) for build in IMAGES.values()),
    (Transformer, (2, 5, 4)),
    (Windows, (2, 4, 4, 2)),
]


@pytest.mark.parametrize(("build", "shape"), WHOLE)
def test_outputs_and_what_meets_the_input_are_no_gaps(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert lost_to(build(), torch.randn(shape)) == {}


def test_a_node_that_cannot_be_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(5, 8), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.fc(x).split(4, 1)
            out: Tensor = self.head(first * second)
            return out

    assert lost_to(Halves(), torch.randn(2, 5)) == {}
    monkeypatch.delitem(RESIZERS, "split")
    assert lost_to(Halves(), torch.randn(2, 5)) == {"split": {"fc.weight[0]", "fc.bias[0]", "head.weight[1]"}}


def test_a_field_of_a_result_may_have_any_name() -> None:
    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(5, 8), nn.Linear(1, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.aminmax(self.fc(x), dim=1, keepdim=True).max)
            return out

    assert lost_to(Largest(), torch.randn(2, 5)) == {"aminmax": {"fc.weight[0]", "fc.bias[0]"}}


def test_strict_lists_every_gap_with_op_node_source_and_weights() -> None:
    with pytest.raises(FrozenError) as caught:
        graphprune.Pruner(Twice(), torch.randint(7, (2, 4)), strict=True)
    message = str(caught.value)
    assert message.startswith("strict: Twice is frozen in places for want of an op rule or a rewriting:")
    for part in ("unknown in node %unknown at ", "in node %unknown_1 at ", "unknown_op.py:", "no rule for this op"):
        assert part in message
    assert "froze fc1.weight[0], fc1.bias[0], fc2.weight[1]" in message
    assert "table" not in message and "%output" not in message


def test_strict_lets_pass_what_has_no_gaps() -> None:
    compiled = graphprune.compile(Reversed(), images(), protect=("conv1",), schedule="one-shot", strict=True)
    assert compiled.plan.kept
    with pytest.raises(FrozenError, match="unknown in node %unknown"):
        graphprune.compile(Reversed(), images(), strict=True)
