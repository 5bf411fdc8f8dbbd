"""refit-layers: what the pass adds to a program, and what it says if it breaks its contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graphprune
from graphprune.criteria.samples import SampleStream
from graphprune.errors import InternalError
from graphprune.pass_manager.runner import Runner
from graphprune.passes import refit_layers
from graphprune.passes.refit_layers import RefitLayers
from graphprune.program.facts import FirstAnalysis
from graphprune.program.program import Program
from graphprune.program.tensors import stored_tensors
from graphprune.repair.record import Repair
from graphprune.repair.refit import refit
from graphprune.repair.samples import Split, split
from graphprune.verification.record import Verification
from tests.small_models import Residual, images, randomised


def pruned() -> tuple[Program, Program, Split]:
    """A compact program, the dense one, and samples."""
    torch.manual_seed(0)
    compiled = graphprune.compile(randomised(Residual()).eval(), images(), sparsity=0.4, criterion="random")
    batches = [(torch.randn(16, *images().shape[1:]), None) for _ in range(5)]
    samples = split(SampleStream(batches, compiled._compact.example).draw(80, torch.device("cpu")))
    return compiled._compact, compiled._original, samples


def test_weights_change_and_what_was_done_is_known() -> None:
    compact, dense, samples = pruned()
    repaired = Runner().run([RefitLayers(dense, samples)], compact)
    record = repaired[Repair]
    assert record.accepted and record.loss_after < record.loss_before
    assert record.samples == 64 and record.held_out == 16
    assert FirstAnalysis in repaired and repaired.history is compact.history
    assert Verification not in repaired  # it was about other values


def test_the_programs_that_were_given_stay_as_they_are() -> None:
    compact, dense, samples = pruned()
    before = [{name: t.clone() for name, t in stored_tensors(each.module).items()} for each in (compact, dense)]
    Runner().run([RefitLayers(dense, samples)], compact)
    for program, values in zip((compact, dense), before, strict=True):
        assert all(torch.equal(tensor, values[name]) for name, tensor in stored_tensors(program.module).items())


def test_only_what_is_recorded_changes() -> None:
    compact, dense, samples = pruned()
    repaired = Runner().run([RefitLayers(dense, samples)], compact)
    named = {name for layer in repaired[Repair].layers for name in layer.tensors}
    old, new = stored_tensors(compact.module), stored_tensors(repaired.module)
    assert {name for name in old if not torch.equal(old[name], new[name])} == named


def test_a_change_that_is_not_recorded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*given: object) -> tuple[Program, Repair]:
        repaired, record = refit(*given)  # type: ignore[arg-type]
        with torch.no_grad():
            stored_tensors(repaired.module)["stem_norm.weight"].add_(1)
        return repaired, record

    compact, dense, samples = pruned()
    monkeypatch.setattr(refit_layers, "refit", careless)
    with pytest.raises(InternalError, match=r"stem_norm\.weight has changed, though no fitted layer has it"):
        Runner().run([RefitLayers(dense, samples)], compact)


def test_a_change_of_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*given: object) -> tuple[Program, Repair]:
        repaired, record = refit(*given)  # type: ignore[arg-type]
        bias: Tensor = stored_tensors(repaired.module)["fc.bias"]
        bias.data = bias.data[:-1]
        return repaired, record

    compact, dense, samples = pruned()
    monkeypatch.setattr(refit_layers, "refit", careless)
    with pytest.raises(InternalError, match=r"fc\.bias has the shape"):
        Runner().run([RefitLayers(dense, samples)], compact)
