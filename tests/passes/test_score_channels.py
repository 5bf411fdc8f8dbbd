"""score-channels: runs a criterion and checks what it gives."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.norm import l1_norm, l2_norm
from graphprune.criteria.random import random
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import InternalError, OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.passes.score_channels import ScoreChannels
from graphprune.program.example import Example
from graphprune.program.program import Program
from tests.small_models import Residual, analysed, group_of, images

SENSITIVITY = Sensitivity(SampleStream(None, Example.of(torch.zeros(1))), cross_entropy, 1, "signed", seed=5)


def score(program: Program, criterion: Any) -> Scores:
    scored = Runner().run([ScoreChannels(criterion, SENSITIVITY)], program)
    return scored[Scores]


def constant(importance: Tensor) -> Any:
    return lambda program, sensitivity: Scores(importance, "constant")


def test_scores_are_filled_in_and_nothing_else_changes() -> None:
    program, dependencies = analysed(Residual(), images())
    importance = torch.arange(float(dependencies.channels))
    result = ScoreChannels(constant(importance), SENSITIVITY).run(program)
    assert result.modified and result.program.module is program.module and Scores not in program
    assert Scores in result.program and torch.equal(result.program[Scores].importance, importance)
    assert result.remarks == ("constant, 0 samples",)


def test_a_second_run_replaces_the_scores() -> None:
    program, dependencies = analysed(Residual(), images())
    once = Runner().run([ScoreChannels(constant(torch.rand(dependencies.channels)), SENSITIVITY)], program)
    twice = score(once, constant(torch.ones(dependencies.channels)))
    assert bool((twice.importance == 1).all())


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (torch.ones(5), r"expected importances of shape \(18,\), one for each channel, got shape \(5,\)"),
        (torch.full((18,), torch.nan), "expected finite importances"),
        (torch.full((18,), torch.inf), "expected finite importances"),
    ],
)
def test_importances_that_cannot_be_ranked(importance: Tensor, message: str) -> None:
    program, _ = analysed(Residual(), images())
    with pytest.raises(OptionError, match=message):
        score(program, constant(importance))


def test_a_criterion_that_gives_no_scores() -> None:
    program, _ = analysed(Residual(), images())
    with pytest.raises(OptionError, match=r"scores\.Scores or a tensor of shape \(18,\), got float"):
        score(program, lambda program, sensitivity: 1.0)


def test_without_dependencies_it_is_refused() -> None:
    program, _ = analysed(Residual(), images())
    bare = program.with_module(program.module)
    with pytest.raises(InternalError, match="score-channels needs Dependencies"):
        score(bare, constant(torch.ones(18)))


def test_an_arbitrary_ranking_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    program, _ = analysed(Residual(), images())
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        score(program, constant(torch.rand(18)))
        assert not caplog.records
        score(program, constant(torch.zeros(18)))
    assert caplog.messages == ["all 18 channels have the same constant: their ranking is arbitrary"]


def test_norms_add_up_over_coupled_layers() -> None:
    model = Residual()
    program, dependencies = analysed(model, images())
    stream = group_of(dependencies, "stem.weight")
    rows = torch.cat([model.stem.weight.flatten(1), model.conv2.weight.flatten(1)], 1).detach().double()
    found = score(program, l1_norm).importance[stream.start : stream.stop]
    torch.testing.assert_close(found, rows.abs().sum(1))
    torch.testing.assert_close(score(program, l2_norm).importance[stream.start : stream.stop], rows.norm(dim=1))


def test_norms_of_a_transposed_convolution_are_of_its_outputs() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.ConvTranspose2d(2, 6, 3), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.up(x)))
            return out

    model = Up()
    program, _ = analysed(model, images())
    weights = model.up.weight.detach().double()
    torch.testing.assert_close(score(program, l1_norm).importance, weights.abs().sum((0, 2, 3)))
    torch.testing.assert_close(score(program, l2_norm).importance, weights.square().sum((0, 2, 3)).sqrt())


def test_random_importance_comes_from_the_seed() -> None:
    program, _ = analysed(Residual(), images())
    state = torch.get_rng_state()
    first, second = score(program, random), score(program, random)
    assert torch.equal(first.importance, second.importance)
    assert torch.equal(state, torch.get_rng_state())
    assert bool((first.importance >= 0).all()) and bool((first.importance < 1).all())
