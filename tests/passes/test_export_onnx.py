"""export-onnx: a checked file of the program, and what was measured on it; nothing is written that is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from graphprune.deploy import ExportResult
from graphprune.errors import ExportError, InternalError, OptionError
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.export_onnx import ExportOnnx
from graphprune.program.program import Program
from tests.scoring import leaving_no_trace
from tests.small_models import Chain, Mlp, analysed, images, randomised


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return analysed(randomised(Chain()), images())[0]


def test_the_file_computes_what_the_program_computes(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    with leaving_no_trace(program):
        exported = Runner().run([ExportOnnx(path)], program)
    assert exported.module is program.module and exported.without(ExportResult).facts == program.facts
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = exported[ExportResult].input_names
    inputs = images(5)
    (found,) = session.run(None, {name: inputs.numpy()})
    # some hundred sums in float32, in another order
    torch.testing.assert_close(torch.from_numpy(found), program.module.eval()(inputs), rtol=1e-5, atol=1e-6)


def test_what_is_said_of_it(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    result = ExportOnnx(path).run(program)
    exported = result.program[ExportResult]
    size, error = path.stat().st_size, exported.max_rel_error
    assert result.modified and exported.path == path and exported.size_bytes == size
    assert result.remarks == (f"{size:,} bytes, batch dynamic, max rel error {error:.2g} against torch",)
    assert ExportOnnx(path).ensures(program, result) == []


def test_a_second_run_writes_the_same(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    once = Runner().run([ExportOnnx(path)], program)
    first = onnx.load(path).graph
    twice = Runner().run([ExportOnnx(path)], once)
    second = onnx.load(path).graph
    assert [node.op_type for node in first.node] == [node.op_type for node in second.node]
    assert twice[ExportResult] == once[ExportResult] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_lower_precision(program: Program, tmp_path: Path, precision: str) -> None:
    plain = ExportOnnx(tmp_path / "plain.onnx").run(program).program[ExportResult]
    path = tmp_path / f"{precision}.onnx"
    examples = [program.example.fresh(4, torch.Generator().manual_seed(seed)) for seed in range(3)]
    result = ExportOnnx(path, precision, examples).run(program)
    exported = result.program[ExportResult]
    assert exported.precision == precision
    assert plain.tolerance < exported.tolerance and plain.max_rel_error < exported.max_rel_error <= exported.tolerance
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 if precision == "float16" else onnx.TensorProto.INT8) in kinds


class Refused(Mlp):
    """Has an operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.linalg.eigvals(super().forward(x)[:, :1, None]).real
        return out


def test_a_failing_export_writes_nothing(tmp_path: Path) -> None:
    program, _ = analysed(Refused(), torch.randn(2, 5))
    path = tmp_path / "refused.onnx"
    with pytest.raises(ExportError, match="cannot export Refused"):
        Runner().run([ExportOnnx(path)], program)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_export_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    program, _ = analysed(Refused(), torch.randn(2, 5))
    path = tmp_path / "refused.onnx"
    path.write_bytes(b"of an earlier run")
    with pytest.raises(ExportError):
        Runner().run([ExportOnnx(path)], program)
    assert path.read_bytes() == b"of an earlier run" and list(tmp_path.iterdir()) == [path]


def test_a_directory_that_does_not_exist(program: Program, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"there is no directory .*nowhere"):
        Runner().run([ExportOnnx(tmp_path / "nowhere" / "chain.onnx")], program)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision(program: Program, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="float8"):
        Runner().run([ExportOnnx(tmp_path / "chain.onnx", "float8")], program)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_missing_or_wrong_is_caught(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    result = ExportOnnx(path).run(program)
    exported = result.program[ExportResult]
    off = PassResult(program.knowing(replace(exported, max_rel_error=0.1, tolerance=0.01)), True)
    assert ExportOnnx(path).ensures(program, off) == ["max rel error 0.1, allowed 0.01"]
    undefined = PassResult(program.knowing(replace(exported, max_rel_error=float("nan"))), True)
    assert ExportOnnx(path).ensures(program, undefined)[0].startswith("max rel error nan, allowed ")
    path.unlink()
    assert ExportOnnx(path).ensures(program, result) == [f"{path} was not written"]


def test_what_it_finds_out_is_asked_for_by_its_name(program: Program) -> None:
    with pytest.raises(InternalError, match="no ExportResult; run the pass export-onnx before"):
        program[ExportResult]
