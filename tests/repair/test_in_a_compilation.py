"""``repair=`` of `compile` and `Pruner`, and what becomes of it in the report and in an artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import graphprune
from graphprune.errors import InputError, OptionError
from tests.repair.networks import FITTED, IMAGE
from tests.repair.test_refit import data, squared_distance

Labelled = list[tuple[Tensor, Tensor]]


def labelled(seed: int = 1) -> Labelled:
    """Batches with targets, for rankings that need them."""
    return [(inputs, torch.arange(len(inputs)) % 3) for inputs, _ in data(seed=seed)]


def test_the_last_round_is_followed_by_a_repair() -> None:
    torch.manual_seed(0)
    model, example = FITTED["residual"]().eval(), torch.randn(2, *IMAGE)
    stages: list[str] = []

    def note(stage: str, done: int, total: int) -> None:
        stages.append(stage)

    plain = graphprune.compile(model, example, sparsity=0.4, data=labelled(), samples=192)
    repaired = graphprune.compile(
        model, example, sparsity=0.4, data=labelled(), samples=192, repair="least-squares", progress=note
    )
    assert stages[-1] == "repair" and stages.count("repair") == 1
    assert plain.report.repair is None and repaired.report.repair is not None
    assert repaired.plan.to_json() == plain.plan.to_json()
    assert squared_distance(repaired, model) < squared_distance(plain, model)
    repaired.verify()


def test_the_pass_runs_where_the_others_do() -> None:
    """So that it can be printed and timed like them."""
    torch.manual_seed(0)
    printed: list[str] = []
    runner = graphprune.Runner(print_after=frozenset({"refit-layers"}), emit=printed.append)
    graphprune.compile(
        FITTED["residual"](), torch.randn(2, *IMAGE), sparsity=0.4, data=labelled(), samples=192,
        repair="least-squares", runner=runner,
    )  # fmt: skip
    assert len(printed) == 1 and runner.seconds["refit-layers"] > 0


def test_data_of_the_last_step_is_fitted_to() -> None:
    torch.manual_seed(0)
    pruner = graphprune.Pruner(
        FITTED["residual"](), torch.randn(2, *IMAGE), sparsity=0.4, repair="least-squares", schedule="one-shot"
    )
    pruner.step(labelled())
    found = pruner.finish().report.repair
    assert found is not None and found.samples + found.held_out == 192
    again = pruner.finish().report.repair
    assert again is found  # a second finish() finds everything done


def test_too_few_samples_are_refused_before_the_work() -> None:
    pruner = graphprune.Pruner(FITTED["plain"](), torch.randn(2, *IMAGE), repair="least-squares")
    with pytest.raises(InputError, match="a repair needs at least 5 samples, to fit to and to judge by; got 2"):
        pruner.step()
    assert not pruner.rounds


def test_an_example_with_enough_samples_will_do() -> None:
    torch.manual_seed(0)
    compiled = graphprune.compile(
        FITTED["plain"](), torch.randn(32, *IMAGE), sparsity=0.4, criterion="random", repair="least-squares"
    )
    assert compiled.report.repair is not None and compiled.report.repair.samples > 20


def test_an_artifact_has_the_repaired_weights_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FITTED["residual"]().eval()
    compiled = graphprune.compile(
        model, torch.randn(2, *IMAGE), sparsity=0.4, data=labelled(), samples=192, repair="least-squares"
    )
    compiled.save(tmp_path / "small", onnx=False)
    torch.manual_seed(0)
    loaded = graphprune.load(tmp_path / "small", FITTED["residual"]().eval())
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in compiled.module.state_dict().items())
    stored = json.loads((tmp_path / "small" / "report.json").read_text("utf-8"))["repair"]
    assert stored["method"] == "least-squares" and stored["loss_after"] < stored["loss_before"]


def test_single_weights_are_not_repaired() -> None:
    with pytest.raises(OptionError, match="leaves zeros in them that have to stay"):
        graphprune.Pruner(FITTED["plain"](), torch.randn(2, *IMAGE), granularity="weight", repair="least-squares")
