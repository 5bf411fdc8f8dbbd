"""Plans with entries of parameters that the model does not read: they were made before such parts were dropped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import ArtifactError
from graphprune.plan.names import names_of_dropped, of_program, without_dropped
from graphprune.plan.plan import Plan
from graphprune.program.example import Example
from graphprune.program.tensors import Kept

INPUTS = torch.linspace(-1, 1, 12).view(2, 6)


class Unread(nn.Module):
    """Calls a layer for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dead, self.h = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        self.dead(y)
        out: Tensor = self.h(y)
        return out


class Tied(nn.Module):
    """Calls a layer for nothing whose weight a later layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.dead, self.a, self.b, self.h = nn.Linear(8, 8), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.b.weight = self.dead.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        self.dead(y)
        out: Tensor = self.h(self.b(y))
        return out


LEFT = torch.tensor([0, 2, 5])
OLD: dict[Callable[[], nn.Module], Kept] = {
    Unread: {
        ("a.weight", 0): LEFT, ("a.bias", 0): LEFT, ("h.weight", 1): LEFT,
        ("dead.weight", 1): LEFT, ("dead.weight", 0): torch.tensor([1]), ("dead.bias", 0): torch.tensor([1]),
    },
    Tied: {("a.weight", 0): LEFT, ("a.bias", 0): LEFT, ("dead.weight", 1): LEFT},
}  # fmt: skip
"""Plans that know of dead parameters, and know a tied one by the name that the dead layer gives it."""


@pytest.mark.parametrize("model", OLD)
def test_an_old_plan_gives_what_a_new_one_gives(model: Callable[[], nn.Module]) -> None:
    fresh, kept = model(), OLD[model]
    compact = Plan("Old", Example((INPUTS,), {}), kept, (kept,)).with_sizes(fresh).apply(fresh)
    names = {"dead.weight": "b.weight"} if model is Tied else {}
    live = {
        (names.get(name, name), dim): left for (name, dim), left in kept.items() if name in names or "dead" not in name
    }
    expected = Plan("New", Example((INPUTS,), {}), live, (live,)).apply(fresh)
    assert compact.state_dict().keys() == expected.state_dict().keys()
    assert "dead.weight" not in compact.state_dict()
    torch.testing.assert_close(compact(INPUTS), expected(INPUTS))
    assert compact.get_parameter("a.weight").shape == (3, 6)


def test_masks_of_dropped_parameters_are_left_out() -> None:
    live = torch.ones(8, 6, dtype=torch.bool)
    live[3, 2] = False
    masks = {"a.weight": live, "dead.weight": torch.zeros(5, 8, dtype=torch.bool)}
    compact = Plan("Old", Example((INPUTS,), {}), {}, (), masks=masks).apply(Unread())
    assert torch.equal(compact.get_parameter("a.weight") != 0, live)


def test_what_is_dropped_is_known_by_name() -> None:
    model = Tied()
    program = graphprune.compile(model, INPUTS, sparsity=0.25, criterion="l1-norm").module
    names = names_of_dropped(model, program)
    assert names == {"dead.weight": "b.weight", "dead.bias": None}
    assert of_program({"dead.weight": 1, "dead.bias": 2, "h.bias": 3}, names) == {"b.weight": 1, "h.bias": 3}
    assert without_dropped(OLD[Tied], names).keys() == {("a.weight", 0), ("a.bias", 0), ("b.weight", 1)}


def test_a_name_that_the_model_never_had_is_still_refused() -> None:
    kept: Kept = {("other.weight", 0): LEFT}
    with pytest.raises(ArtifactError, match=r"other\.weight dim 0: the model has nothing of that name"):
        Plan("Old", Example((INPUTS,), {}), kept, (kept,)).apply(Unread())
