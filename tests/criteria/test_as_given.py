"""A criterion of the user's own: functions of a group's weights, and of the whole program."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.criteria import CRITERIA, ByGroup, Sensitivity, criterion_of
from graphprune.criteria.criterion import scores_of
from graphprune.criteria.elasticity import Elasticity
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.norm import l1_norm
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.scores import Scores
from graphprune.errors import OptionError
from graphprune.program.example import Example
from graphprune.program.program import Program
from tests.small_models import Chain, Mlp, Residual, analysed, group_of, images

SENSITIVITY = Sensitivity(SampleStream(None, Example.of(torch.zeros(1))), cross_entropy, 1, "signed", 0)


def score(program: Program, given: Any) -> Scores:
    return scores_of(criterion_of(given), program, SENSITIVITY)


def test_a_function_of_a_groups_weights_sees_the_values_of_each_channel() -> None:
    model = Chain()
    program, _ = analysed(model, images())
    seen: dict[str, Tensor] = {}

    def norm_of_weight(weights: dict[str, Tensor]) -> Tensor:
        seen.update(weights)
        return weights["conv.weight[0]"].square().sum(1).sqrt()

    found = score(program, norm_of_weight)
    assert found.criterion == "norm_of_weight" and found.importance.dtype == torch.float64
    torch.testing.assert_close(found.importance, model.conv.weight.detach().flatten(1).norm(dim=1).double())
    norm = ("weight", "bias", "running_mean", "running_var")
    assert seen.keys() == {"conv.weight[0]", "conv.bias[0]", *(f"norm.{name}[0]" for name in norm), "fc.weight[1]"}
    assert torch.equal(seen["fc.weight[1]"], model.fc.weight.detach().t())
    assert not any(weight.requires_grad for weight in seen.values())


def test_a_channel_of_several_indices_has_the_values_of_all() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(3 * 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
            return out

    model = Flat()
    program, _ = analysed(model, images())
    found = score(program, lambda weights: weights["fc.weight[1]"].sum(1)).importance
    torch.testing.assert_close(found, model.fc.weight.detach().view(3, 3, 16).sum((0, 2)).double())


def test_what_a_function_writes_does_not_reach_the_model() -> None:
    model = Residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program, _ = analysed(model, images())
    score(program, lambda weights: sum(weight.zero_().sum(1) for weight in weights.values()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_function_of_the_program_gives_all_channels_as_a_tensor_or_scores() -> None:
    program, dependencies = analysed(Residual(), images())
    wanted = torch.arange(dependencies.channels)
    found = score(program, lambda program, sensitivity: wanted)
    assert torch.equal(found.importance, wanted.double()) and found.criterion == "<lambda>" and found.loss is None
    scores = Scores(wanted.double(), "mine", 0.5, 7)
    assert score(program, lambda program, sensitivity: scores) is scores


def test_the_number_of_required_arguments_tells_them_apart() -> None:
    class Object:
        def __call__(self, program: Program, sensitivity: Sensitivity, scale: float = 1.0) -> Tensor:
            return torch.ones(1)

    def of_group(weights: dict[str, Tensor], power: int = 2) -> Tensor:
        return torch.ones(1)

    assert isinstance(criterion_of(of_group), ByGroup)
    for whole in (Object(), Elasticity(), l1_norm, lambda *arguments: torch.ones(1), max):
        assert criterion_of(whole) is whole


def infinite_in_the_second_group(weights: dict[str, Tensor]) -> Tensor:
    return torch.full((6,), torch.inf) if "fc2.weight[0]" in weights else torch.ones(8)


OF_GROUP = [
    (lambda weights: torch.ones(3), r"<lambda>: expected a tensor of shape \(8,\) for group g0 .*, got shape \(3,\)"),
    (lambda weights: 1.0, r"of shape \(8,\) for group g0 \(fc1\.weight\), got float"),
    (infinite_in_the_second_group, r"got 6 of 14 that are not, the first \(inf\) in group g1 \(fc2\.weight\)"),
]
OF_PROGRAM = [
    (lambda program, data: torch.ones(3, 2), r"shape \(14,\), one for each channel, got shape \(3, 2\)"),
    (lambda program, data: [1.0] * 14, r"graphprune\.scores\.Scores or a tensor of shape \(14,\), got list"),
    (lambda program, data: torch.full((14,), torch.nan), r"got 14 of 14 that are not, the first \(nan\) in group g0"),
]


@pytest.mark.parametrize(("given", "message"), [*OF_GROUP, *OF_PROGRAM])
def test_what_cannot_be_ranked_is_refused_with_expected_and_got(given: Any, message: str) -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    with pytest.raises(OptionError, match=message):
        score(program, given)


def test_what_a_user_registers_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))

    @CRITERIA.register("largest-weight")
    def largest(weights: dict[str, Tensor]) -> Tensor:
        return torch.cat([value for key, value in weights.items() if key.endswith("weight[0]")], 1).abs().amax(1)

    data = [(images(4), torch.randint(3, (4,)))]
    compiled = graphprune.compile(Residual(), images(2), criterion="largest-weight", data=data)
    assert compiled.report.criterion == "largest-weight" and compiled.plan.kept
    assert "importance" in str(compiled.report) and "elasticity" not in str(compiled.report)


def test_the_least_important_go() -> None:
    model = Chain()
    _, dependencies = analysed(model, images())
    compiled = graphprune.compile(
        model, images(2), criterion=lambda weights: torch.arange(6.0).flip(0), schedule="one-shot"
    )
    assert group_of(dependencies, "conv.weight").channels == 6
    assert compiled.plan.kept["conv.weight", 0].tolist() == [0, 1, 2]
