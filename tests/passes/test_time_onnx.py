"""time-onnx: latencies of the exported program and of the dense one, measured in turns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphprune.deploy import ExportResult, TimingResult
from graphprune.errors import ArtifactError, InternalError, OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.export_onnx import ExportOnnx
from graphprune.passes.time_onnx import TimeOnnx
from graphprune.program.program import Program
from tests.scoring import leaving_no_trace
from tests.small_models import Mlp, analysed


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Program:
    torch.manual_seed(0)
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    return Runner().run([ExportOnnx(tmp_path_factory.mktemp("exported") / "mlp.onnx")], program)


def timed(exported: Program, *, batch: int = 3, provider: str = "cpu", repeats: int = 3) -> TimeOnnx:
    """Against the same file, for what is measured does not matter here."""
    return TimeOnnx(exported[ExportResult].path, batch, provider, threads=1, repeats=repeats)


def test_both_are_measured_and_nothing_else_changes(exported: Program) -> None:
    with leaving_no_trace(exported):
        program = Runner().run([timed(exported)], exported)
    timing = program[TimingResult]
    assert program.module is exported.module and program.without(TimingResult).facts == exported.facts
    assert list(timing.latencies) == ["dense", "compact"]
    assert all(latency.median_ms > 0 and len(latency.samples) == 3 for latency in timing.latencies.values())
    assert (timing.batch_size, timing.repeats, timing.threads) == (3, 3, 1), "the batch need not be the example's"
    assert timing.provider == "CPUExecutionProvider"


def test_what_is_said_of_it(exported: Program) -> None:
    result = timed(exported).run(exported)
    latencies = result.program[TimingResult].latencies
    dense, compact = (latencies[name].median_ms for name in ("dense", "compact"))
    assert result.modified
    assert result.remarks == (f"dense {dense:.3f} ms, compact {compact:.3f} ms; CPUExecutionProvider",)


def test_a_second_run_measures_anew(exported: Program) -> None:
    once = Runner().run([timed(exported)], exported)
    twice = Runner().run([timed(exported, repeats=2)], once)
    assert twice[TimingResult].repeats == 2 and twice[TimingResult] is not once[TimingResult]


def test_without_an_export_it_is_refused(exported: Program) -> None:
    program, dense = exported.without(ExportResult), exported[ExportResult].path
    with pytest.raises(InternalError, match="time-onnx needs ExportResult, which no earlier pass provides"):
        Runner().run(pipelines.timing(dense, 3, "cpu", 1, 3), program)
    (timing,) = pipelines.timing(dense, 3, "cpu", 1, 3)
    assert timing == timed(exported)


def test_after_an_export_in_one_pipeline(exported: Program, tmp_path: Path) -> None:
    passes = (*pipelines.exporting(tmp_path / "again.onnx"), timed(exported))
    program = Runner().run(passes, exported.without(ExportResult))
    assert program[TimingResult].latencies.keys() == {"dense", "compact"}


def test_a_dense_file_that_is_missing(exported: Program, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing-here\.onnx"):
        Runner().run([TimeOnnx(tmp_path / "nothing-here.onnx", 3, "cpu", repeats=3)], exported)


def test_an_unknown_provider(exported: Program) -> None:
    with pytest.raises(OptionError, match="tpu"):
        Runner().run([timed(exported, provider="tpu")], exported)


def test_a_provider_that_cannot_run_here(exported: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"(?i)cuda"):
        Runner().run([timed(exported, provider="cuda")], exported)


def test_numbers_that_cannot_be(exported: Program) -> None:
    with pytest.raises(OptionError, match="repeats=0 must be 1 or more"):
        Runner().run([timed(exported, repeats=0)], exported)
