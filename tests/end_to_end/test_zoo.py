"""Torchvision models: how much of them is prunable, and that it is pruned right; all in benchmarks/coverage.py."""

from __future__ import annotations

import pytest
import torch

import graphprune
from benchmarks.models import make
from graphprune.capture import capture
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.program import Program

# share of output rows that belong to an unfrozen group, at the least
SHARES = {
    "resnet18": 0.82, "resnet50": 0.96, "vgg11_bn": 0.91, "mobilenet_v2": 0.94, "densenet121": 0.91,
    "shufflenet_v2_x0_5": 0.79, "efficientnet_b0": 0.96, "regnet_y_400mf": 0.94, "convnext_tiny": 0.97,
    "vit_b_16": 0.98, "swin_t": 0.90,
}  # fmt: skip


def analysed(name: str) -> tuple[Program, Dependencies]:
    model, example = make(f"torchvision:{name}")
    program = Runner().run(pipelines.analysis(), capture(model, example))
    return program, program[Dependencies]


def frozen_and_all_rows(name: str) -> tuple[int, int]:
    program, dependencies = analysed(name)
    weights = {key: parameter for key, parameter in program.module.named_parameters() if parameter.dim() >= 2}
    frozen = [owner for owner in dependencies.frozen_dims() if owner.dim == 0 and owner.name in weights]
    return sum(owner.size for owner in frozen), sum(weight.shape[0] for weight in weights.values())


@pytest.mark.parametrize("name", SHARES)
def test_share_of_prunable_rows(name: str) -> None:
    frozen, rows = frozen_and_all_rows(name)
    assert 1 - frozen / rows >= SHARES[name]


def test_googlenet_freezes_its_classifier_only() -> None:
    # its auxiliary heads are not read in evaluation mode, so they are no part of the program
    assert frozen_and_all_rows("googlenet") == (1000, 8280)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "regnet_y_400mf", "efficientnet_b0"])
def test_half_of_the_channels_go_and_every_round_is_proved(name: str) -> None:
    model, _ = make(f"torchvision:{name}")
    compiled = graphprune.compile(model, torch.randn(2, 3, 64, 64), sparsity=0.5)
    before, after = compiled.report.costs["channels"]
    assert abs(before * 0.5 - after) <= 1
    proofs = [entry.verification for entry in compiled.report.rounds]
    assert all(proof is not None and proof.relative_error <= 1e-5 for proof in proofs)
    # the batch is what a round cannot know: the compact module has to take any
    assert compiled.module.eval()(torch.randn(5, 3, 64, 64)).shape == (5, 1000)
