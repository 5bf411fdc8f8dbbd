"""Dead paths from the call on: figures in the report, exact budgets without them, and training afterwards."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Compiled, Pruner
from graphprune.costs.pool import pool_of
from graphprune.criteria.weights import WeightScores
from graphprune.errors import OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.paths.connectivity import connectivity_of
from tests.small_models import CLASSES, IMAGES, Mlp, Residual, images, randomised
from tests.test_pruner import batches, train

BOTH = ("weight", "mixed")


def compiled_of(name: str, granularity: str, sparsity: float, **options: Any) -> Compiled:
    defaults: dict[str, Any] = {"data": batches(2), "samples": 16, "schedule": "linear"}
    return graphprune.compile(
        randomised(IMAGES[name]()), images(2), granularity=granularity, sparsity=sparsity, **(defaults | options)
    )


def by_gradients(module: nn.Module) -> int:
    """Live weights that matter for no output: of a copy with positive weights, by autograd; no paths cancel there."""
    positive = module.double()
    weights = [p for p in positive.parameters() if p.dim() >= 2]
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    inputs = (torch.rand(2, 5).double(), torch.zeros(2, 5).double())
    mixed = [torch.autograd.grad(positive(x).sum(), weights) for x in inputs]
    # the difference of inputs takes away what biases alone give
    return sum(int(((a - b == 0) & (w != 0)).sum()) for a, b, w in zip(*mixed, weights, strict=True))


@pytest.mark.parametrize("sparsity", [0.9, 0.95])
@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize("name", ["residual", "inverted", "dense"])
def test_what_is_left_is_exactly_the_budget_and_all_on_paths(name: str, granularity: str, sparsity: float) -> None:
    kept = compiled_of(name, granularity, sparsity)
    removed = compiled_of(name, granularity, sparsity, dead_paths="remove")
    total, left = removed.report.costs["weights"]
    allowed = total - -(-total * round(100 * sparsity) // 100)
    assert kept.report.costs["weights"] == (total, allowed)
    assert left == allowed, "dead ones made room for others"
    assert sum(int((p != 0).sum()) for p in removed.module.parameters() if p.dim() >= 2) == allowed
    before, after = kept.report.dead_paths, removed.report.dead_paths
    assert before is not None and after is not None
    assert after.weights == 0 and after.cut <= before.cut
    for compiled in (kept, removed):
        assert compiled.verify().relative_error <= 1e-5
    if granularity == "mixed" and removed.report.costs["channels"][1] > len(removed.report.groups):
        assert after.unreached <= len(removed.report.groups), "only what floors hold back"


def test_figures_are_those_of_the_result() -> None:
    """Counted again from the compact module, which is analysed anew."""
    for granularity in BOTH:
        compiled = compiled_of("inverted", granularity, 0.8)
        figures = compiled.report.dead_paths
        assert figures is not None
        program = Runner().run(pipelines.analysis(), graphprune.capture.capture(compiled.module, images(2)))
        program = program.masked(compiled.plan.masks)
        found = connectivity_of(program)
        assert figures.cut == len(found.cut) and figures.outputs == found.outputs == CLASSES
        # a group of one channel is frozen when it is analysed anew, and counts as joined
        assert int((~found.reached).sum()) <= figures.unreached
        assert int((~found.useful).sum()) <= figures.useless


@pytest.mark.parametrize("depth", [3, 30])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_a_ranking_by_layers_does_not_cut(sparsity: float, depth: int) -> None:
    def in_order(program: Any, sensitivity: Any) -> WeightScores:
        generator = torch.Generator().manual_seed(0)
        ranks = enumerate(pool_of(program).items())
        return WeightScores({n: torch.rand(w.shape, generator=generator) + i for i, (n, w) in ranks}, "in order")

    layers = [layer for _ in range(depth) for layer in (nn.Linear(24, 24), nn.ReLU())]
    options: dict[str, Any] = {"granularity": "weight", "sparsity": sparsity, "criterion": in_order}
    compiled = graphprune.compile(
        nn.Sequential(*layers), torch.randn(2, 24), dead_paths="remove", schedule="one-shot", **options
    )
    total, left = compiled.report.costs["weights"]
    allowed = total - math.ceil(total * sparsity)
    assert 0.98 * allowed <= left <= allowed
    assert compiled.report.dead_paths is not None
    assert (compiled.report.dead_paths.weights, compiled.report.dead_paths.cut < 24) == (0, True)


def test_a_cut_network_is_told_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def middle_first(program: Any, sensitivity: Any) -> WeightScores:
        return WeightScores(
            {n: torch.rand(w.shape) + (n != "fc2.weight") for n, w in pool_of(program).items()}, "middle first"
        )

    pruner = Pruner(
        Mlp(), torch.randn(2, 5), granularity="weight", sparsity=0.5, criterion=middle_first, schedule="one-shot"
    )
    with caplog.at_level(logging.WARNING):
        entry = pruner.step()
    # 48 of 106 weights are between the layers, so they go first, then 5 others
    assert entry.dead_paths is not None and (entry.dead_paths.cut, entry.dead_paths.outputs) == (CLASSES, CLASSES)
    assert entry.dead_paths.weights == pruner.report().costs["weights"][1] > 0
    (record,) = caplog.records
    assert "round 1: 3 of 3 outputs of Mlp are cut off from every input" in record.getMessage()
    report = pruner.report()
    assert "3 of 3 outputs are cut off from every input" in " ".join(str(report).split())
    told = json.loads(json.dumps(report.to_dict(), default=str))
    assert told["dead_paths"]["cut"] == 3 and told["rounds"][0]["dead_paths"]["weights"] == entry.dead_paths.weights


def test_channels_alone_have_no_dead_paths() -> None:
    report = graphprune.compile(Residual(), images(2), sparsity=0.5).report
    assert report.dead_paths is None and report.to_dict()["dead_paths"] is None and "paths:" not in str(report)


def test_dead_weights_by_gradients() -> None:
    """The figure for a network that is kept as it is, against autograd."""
    torch.manual_seed(2)
    model = Mlp((12, 12))
    data = [(torch.randn(8, 5), torch.randint(CLASSES, (8,)))]
    options: dict[str, Any] = {"data": data, "samples": 8, "granularity": "weight", "criterion": "random"}
    found = 0
    for sparsity in (0.7, 0.85):
        for dead_paths in ("keep", "remove"):
            compiled = graphprune.compile(model, torch.randn(2, 5), sparsity=sparsity, dead_paths=dead_paths, **options)
            figures = compiled.report.dead_paths
            assert figures is not None
            assert by_gradients(compiled.module) == figures.weights
            found += figures.weights
            assert figures.weights == 0 or dead_paths == "keep"
    assert found > 0


@pytest.mark.parametrize("resurrect", [False, True])
@pytest.mark.parametrize("granularity", BOTH)
def test_training_goes_on_between_rounds_and_afterwards(granularity: str, resurrect: bool) -> None:
    pruner = Pruner(
        randomised(Residual()), images(2), granularity=granularity, sparsity=0.9, data=batches(2), samples=16,
        schedule="linear", dead_paths="remove", resurrect=resurrect,
    )  # fmt: skip
    optimizer = torch.optim.Adam(pruner.module.parameters(), lr=0.01, weight_decay=0.01)
    while pruner.rounds_left:
        train(pruner.module, optimizer, batches(2))
        entry = pruner.step(optimizer=optimizer)
        assert entry.dead_paths is not None and entry.dead_paths.weights == 0
        assert entry.achieved["weights"] >= entry.requested["weights"] - 1e-9
    compiled = pruner.finish()
    before: dict[str, Tensor] = {n: p.detach().clone() for n, p in compiled.module.named_parameters()}
    train(compiled.module, optimizer, batches(2))
    for name, mask in compiled.plan.masks.items():
        parameter = compiled.module.get_parameter(name)
        assert not bool(parameter[~mask].any())
    assert any(not torch.equal(p, before[n]) for n, p in compiled.module.named_parameters())
    assert compiled.verify().relative_error <= 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "channel", "dead_paths": "remove"}, "a channel that is left is on a path"),
        ({"granularity": "weight", "dead_paths": "drop"}, "dead_paths='drop' is unknown; known are keep, remove"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        graphprune.compile(Residual(), images(2), **options)


def test_one_channel_of_each_group_is_left() -> None:
    """Then there is nothing to be ranked but weights, in the rounds that are left."""
    compiled = compiled_of("chain", "mixed", 0.97, dead_paths="remove", schedule="halving")
    assert compiled.report.costs["channels"][1] == 1
    total, left = compiled.report.costs["weights"]
    assert left <= total - -(-total * 97 // 100)
