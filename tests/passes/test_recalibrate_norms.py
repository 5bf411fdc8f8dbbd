"""recalibrate-norms: what the pass adds to a program, and what it says if it breaks its contract."""

from __future__ import annotations

import pytest
import torch

from graphprune.errors import InternalError
from graphprune.pass_manager.runner import Runner
from graphprune.passes import recalibrate_norms
from graphprune.passes.recalibrate_norms import RecalibrateNorms
from graphprune.program.program import Program
from graphprune.program.tensors import stored_parameters, stored_tensors
from graphprune.repair.recalibrate import recalibrate
from graphprune.repair.record import Repair
from graphprune.verification.record import Verification
from tests.passes.test_refit_layers import pruned


def test_statistics_change_and_what_was_done_is_known() -> None:
    compact, dense, samples = pruned()
    changed = Runner().run([RecalibrateNorms(dense, samples)], compact)
    record = changed[Repair]
    assert record.method == "recalibrate" and (record.samples, record.held_out) == (64, 16)
    assert Verification not in changed
    norms = [name for name in stored_tensors(compact.module) if name.endswith("running_mean")]
    assert [layer.tensors[0] for layer in record.layers] == norms


def test_weights_and_the_programs_that_were_given_stay_as_they_are() -> None:
    compact, dense, samples = pruned()
    before = {name: tensor.clone() for name, tensor in stored_tensors(compact.module).items()}
    changed = Runner().run([RecalibrateNorms(dense, samples)], compact)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stored_tensors(compact.module).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in stored_parameters(changed.module).items())


def test_a_change_of_a_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*given: object) -> tuple[Program, Repair]:
        changed, record = recalibrate(*given)  # type: ignore[arg-type]
        if changed is given[0]:
            pytest.skip("the statistics were no better, so nothing was copied")
        with torch.no_grad():
            stored_tensors(changed.module)["fc.weight"].add_(1)
        return changed, record

    compact, dense, samples = pruned()
    monkeypatch.setattr(recalibrate_norms, "recalibrate", careless)
    with pytest.raises(InternalError, match=r"fc\.weight has changed, though no fitted layer has it"):
        Runner().run([RecalibrateNorms(dense, samples)], compact)
