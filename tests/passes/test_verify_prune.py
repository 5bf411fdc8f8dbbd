"""verify-prune: proves a prune, and names the first node of a wrong one."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from graphprune.errors import InternalError, VerificationError
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.runner import Runner
from graphprune.passes.prune_channels import PruneChannels
from graphprune.passes.verify_prune import VerifyPrune
from graphprune.program.program import Origin, Program
from graphprune.selection.record import Selection
from graphprune.verification.record import Verification
from tests.small_models import Residual, analysed, images, randomised


def pruned() -> Program:
    program, dependencies = analysed(randomised(Residual()), images())
    keep = torch.arange(dependencies.channels) % 3 != 0
    return Runner().run([PruneChannels()], program.knowing(Selection(keep)))


def test_a_right_prune_is_proved_and_its_origin_let_go() -> None:
    program = Runner().run([VerifyPrune()], pruned())
    assert Origin not in program and Verification in program
    assert program[Verification].relative_error <= program[Verification].tolerance
    assert program[Verification].inputs_tried == 2 and len(program[Verification].batch_sizes) == 2


def test_the_module_is_not_changed() -> None:
    before = pruned()
    after = Runner().run([VerifyPrune()], before)
    assert after.module is before.module
    assert after.get(Dependencies) is before.get(Dependencies) and after.history.kept is before.history.kept


@pytest.mark.parametrize("name", ["conv2.weight", "norm3.bias", "stem_norm.running_mean"])
def test_a_wrong_prune_is_refused_and_the_first_node_that_differs_named(name: str) -> None:
    program = pruned()
    with torch.no_grad():
        program.module.state_dict()[name][0] += 30.0
    node = name.rpartition(".")[0]
    with pytest.raises(VerificationError, match=f"first node that differs is %{node} "):
        Runner().run([VerifyPrune()], program)


class PartlyUndefined(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), (-1 - x.mean((1, 2, 3)).square()).sqrt().unsqueeze(1)], 1)


def test_that_undefined_values_prove_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    program, dependencies = analysed(randomised(PartlyUndefined()), images())
    keep = torch.arange(dependencies.channels) % 3 != 0
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        Runner().run([PruneChannels(), VerifyPrune()], program.knowing(Selection(keep)))
    (message,) = caplog.messages  # of two batches, of two and three samples
    assert message.startswith("the network gives 5 values that are not a number")


def test_without_a_prune_it_is_refused() -> None:
    program, _ = analysed(Residual(), images())
    with pytest.raises(InternalError, match="verify-prune needs Origin"):
        Runner().run([VerifyPrune()], program)


def test_a_second_run_is_refused() -> None:
    with pytest.raises(InternalError, match="verify-prune needs Origin"):
        Runner().run([VerifyPrune(), VerifyPrune()], pruned())
