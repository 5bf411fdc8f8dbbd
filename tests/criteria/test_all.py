"""What every registered criterion for channels keeps to, by itself and in a whole compilation."""

from __future__ import annotations

import pytest
import torch

import graphprune
from graphprune.criteria import CRITERIA, criterion_of
from graphprune.criteria.criterion import scores_of
from graphprune.errors import InputError
from graphprune.labels.dependencies import Dependencies
from tests.scoring import batches_like, leaving_no_trace, prepared, sensitivity, with_dead_weights
from tests.small_models import IMAGES, analysed, images

NEEDS_DATA = [
    "elasticity", "elasticity-per-mac", "elasticity-per-param", "fisher", "fisher-per-mac", "fisher-per-param", "grasp",
    "taylor",
]  # fmt: skip


def test_names() -> None:
    assert set(CRITERIA.names()) == {*NEEDS_DATA, "bn-gamma", "l1-norm", "l2-norm", "magnitude", "random", "synflow"}
    assert CRITERIA["magnitude"] is CRITERIA["l1-norm"]


@pytest.mark.parametrize("name", CRITERIA.names())
@pytest.mark.parametrize("model", IMAGES)
def test_one_finite_number_for_each_channel_and_no_trace(name: str, model: str) -> None:
    program = with_dead_weights(analysed(IMAGES[model](), images())[0])
    program.module.train()
    options = sensitivity(batches_like(images(), 3, 2))
    with leaving_no_trace(program):
        found = scores_of(criterion_of(name), program, options)
    assert found.importance.shape == (program[Dependencies].channels,)
    assert found.importance.dtype == torch.float64
    assert found.importance.device.type == "cpu"
    assert not found.importance.requires_grad


@pytest.mark.parametrize("name", NEEDS_DATA)
def test_data_that_is_too_small_is_used_once(name: str) -> None:
    program = prepared(IMAGES["residual"](), images())
    batches = batches_like(images().double(), 2, 1)
    few = scores_of(criterion_of(name), program, sensitivity(batches, samples=100))
    exact = scores_of(criterion_of(name), program, sensitivity(batches, samples=3))
    assert few.samples == exact.samples == 3
    assert torch.equal(few.importance, exact.importance)
    with pytest.raises(InputError, match="data gives no batches"):
        scores_of(criterion_of(name), program, sensitivity([]))


@pytest.mark.parametrize("name", CRITERIA.names())
def test_a_whole_compilation(name: str) -> None:
    compiled = graphprune.compile(
        IMAGES["inverted"](), images(), sparsity=0.5, criterion=name, data=batches_like(images(), 8)
    )
    assert compiled.report.criterion == name
    assert compiled.report.achieved["channels"] >= 0.45


@pytest.mark.cuda
@pytest.mark.parametrize("name", CRITERIA.names())
def test_on_cuda(name: str) -> None:
    network = IMAGES["residual"]().double()
    options = sensitivity(batches_like(images().double(), 3, 2))
    expected = scores_of(criterion_of(name), analysed(network, images().double())[0], options)
    found = scores_of(criterion_of(name), analysed(network.cuda(), images().double().cuda())[0], options)
    torch.testing.assert_close(found.importance, expected.importance, rtol=1e-6, atol=1e-14)
