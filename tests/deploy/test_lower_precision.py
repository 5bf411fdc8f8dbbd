"""Files in float16 and INT8: what is in them, how far they are from torch, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import graphprune
from graphprune.compiled import Compiled
from graphprune.deploy import export_onnx, lower_precision
from graphprune.errors import ExportError, InputError, OptionError
from graphprune.program.example import Example


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


def images(count: int, scale: float = 1.0, seed: int = 1) -> Tensor:
    return scale * torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def stored_types(path: Path) -> set[int]:
    return {entry.data_type for entry in onnx.load(path).graph.initializer if len(entry.dims) == 4}


def test_float16_halves_the_weights(tmp_path: Path) -> None:
    full = export_onnx(conv_net(), (images(2),), {}, tmp_path / "full.onnx")
    half = export_onnx(conv_net(), (images(2),), {}, tmp_path / "half.onnx", precision="float16")
    assert stored_types(half.path) == {onnx.TensorProto.FLOAT16}
    assert [value.type.tensor_type.elem_type for value in onnx.load(half.path).graph.input] == [onnx.TensorProto.FLOAT]
    assert (full.precision, half.precision) == ("float32", "float16")
    assert full.max_rel_error < 1e-5 < half.max_rel_error < 1e-2  # the rounding steps of both types
    assert half.size_bytes < 0.7 * full.size_bytes
    assert half.batch == "dynamic" and half.batch_sizes == (2, 3)


def test_int8_quantises_weights_and_activations(tmp_path: Path) -> None:
    result = export_onnx(conv_net(), (images(2),), {}, tmp_path / "int8.onnx", precision="int8")
    graph = onnx.load(result.path).graph
    assert stored_types(result.path) == {onnx.TensorProto.INT8}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    # 8 bits: a step is 1/127 of the range, and the error of a few layers some steps
    assert 1e-4 < result.rms_rel_error < 0.1 and result.batch == "dynamic"
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_data_sets_the_ranges_and_the_last_batch_is_held_out(tmp_path: Path) -> None:
    bright = [Example.of(images(8, 10.0, seed)) for seed in range(4)]
    on_data = export_onnx(conv_net(), (images(2),), {}, tmp_path / "data.onnx", precision="int8", calibration=bright)
    narrow = [*[Example.of(images(8))] * 3, bright[-1]]
    clipped = export_onnx(conv_net(), (images(2),), {}, tmp_path / "clipped.onnx", precision="int8", calibration=narrow)
    assert on_data.batch_sizes == clipped.batch_sizes == (8,)
    assert on_data.rms_rel_error < 0.1 < 0.5 < clipped.rms_rel_error  # ranges a tenth of the data's clip most of it


def test_half_of_a_single_batch_is_held_out(tmp_path: Path) -> None:
    """Its first half alone sets the ranges, so a second half ten times as bright is clipped."""
    uneven = Example.of(torch.cat([images(8), images(8, 10.0)]))
    for order, example in (("dark", uneven), ("bright", Example.of(uneven.args[0].flip(0)))):
        path = tmp_path / f"{order}.onnx"
        result = export_onnx(conv_net(), (images(2),), {}, path, precision="int8", calibration=[example])
        assert result.batch_sizes == (8,)
        assert (result.rms_rel_error > 0.5) == (order == "dark")


def test_random_calibration_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "graphprune"):
        export_onnx(conv_net(), (images(2),), {}, tmp_path / "int8.onnx", precision="int8")
    assert any("no data to calibrate INT8 on" in message for message in caplog.messages)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_lowering_that_breaks_the_network_is_refused(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, calibration: object) -> None:
        model = onnx.load(path)
        for entry in model.graph.initializer:
            if len(entry.dims) == 2:
                entry.CopyFrom(onnx.numpy_helper.from_array(-3 * onnx.numpy_helper.to_array(entry), entry.name))
        onnx.save(model, path)

    monkeypatch.setitem(lower_precision._LOWERINGS, precision, broken)
    with pytest.raises(ExportError, match=r"does not compute what the module computes"):
        export_onnx(conv_net(), (images(2),), {}, tmp_path / "broken.onnx", precision=precision)
    assert not list(tmp_path.iterdir())


def test_a_tool_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, calibration: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setitem(lower_precision._LOWERINGS, "int8", fails)
    with pytest.raises(ExportError, match=r"cannot bring the file to int8: ValueError: no such thing; check the data"):
        export_onnx(conv_net(), (images(2),), {}, tmp_path / "net.onnx", precision="int8")


def test_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"precision='int4' is unknown; known are float32, float16, int8"):
        export_onnx(conv_net(), (images(2),), {}, tmp_path / "net.onnx", precision="int4")


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return graphprune.compile(conv_net(), images(2), sparsity=0.5, schedule="one-shot")


def test_of_a_compact_network(compiled: Compiled, tmp_path: Path) -> None:
    data = [(images(16, seed=seed), torch.zeros(16, dtype=torch.long)) for seed in range(4)]
    results = {
        precision: compiled.export_onnx(tmp_path / f"{precision}.onnx", precision=precision, data=data, samples=48)
        for precision in ("float32", "float16", "int8")
    }
    errors = [result.rms_rel_error for result in results.values()]
    assert errors == sorted(errors) and errors[-1] < 0.2
    assert results["int8"].batch_sizes == (16,)


def test_both_are_timed_in_the_precision(compiled: Compiled) -> None:
    timing = compiled.benchmark(precision="int8", repeats=3, provider="cpu")
    assert all(np.isfinite(latency.median_ms) for latency in timing.latencies.values())


class Difference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = self.first(a) - 3 * self.second(b)
        return found


def test_data_goes_by_the_names_of_arguments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = ({"a": torch.randn(4, 8), "b": scale * torch.randn(4, 8)} for scale in (9, 1))
    turned = [Example.of(dict(reversed(each.items()))) for each in (first, first, second)]
    result = export_onnx(Difference(), (), first, tmp_path / "net.onnx", precision="int8", calibration=turned)
    assert result.rms_rel_error < 0.2
    with pytest.raises(InputError, match=r"data: inputs \(4, 8\), a= are not those of the example, .* a=, b="):
        export_onnx(
            Difference(), (), first, tmp_path / "net.onnx", precision="int8",
            calibration=[Example.of({"a": first["a"]})],
        )  # fmt: skip


def test_a_fixed_batch_is_found_out_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().reshape(4, -1)

    assert export_onnx(fx.symbolic_trace(Fixed()), (torch.randn(4, 6),), {}, tmp_path / "net.onnx").batch == "static"
    assert "Traceback" not in capfd.readouterr().err
