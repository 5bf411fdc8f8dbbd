from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graphprune.deploy import Latency, TimingResult, describe_hardware, library_versions, time_interleaved
from graphprune.deploy import hardware as hardware_module
from graphprune.deploy import timing as timing_module
from graphprune.deploy.sessions import CPU, CUDA, NodePlacement, _placement_of, choose_provider, node_placement
from graphprune.deploy.sessions import open_session as real_open_session
from graphprune.errors import ArtifactError, InputError, OptionError

FEEDS = {"input": np.ones((5, 16), dtype=np.float32)}


def save_mlp(path: Path, width: int) -> Path:
    """``(batch, 16)`` through a hidden layer to ``(batch, 4)``, made without torch."""
    weights = {
        "w1": np.full((16, width), 0.1, dtype=np.float32),
        "w2": np.full((width, 4), 0.1, dtype=np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["input", "w1"], ["hidden"], name="first"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "w2"], ["output"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"dense": save_mlp(folder / "dense.onnx", 64), "compact": save_mlp(folder / "compact.onnx", 16)}


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def result_of(latencies: dict[str, Latency], provider: str = CPU) -> TimingResult:
    placements = {name: NodePlacement(3, 3 if provider == CPU else 1, ("MatMul",)) for name in latencies}
    samples = next(iter(latencies.values())).samples
    versions = {"onnxruntime": "1"}
    machine = describe_hardware()
    return TimingResult(provider, "", 1, 8, 5, len(samples), machine, versions, latencies, placements)


def test_cpu_timing_says_what_ran(models: dict[str, Path], no_cuda: None) -> None:
    progress: list[tuple[int, int]] = []
    result = time_interleaved(models, FEEDS, warmup=2, repeats=4, on_progress=lambda *step: progress.append(step))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (result.provider, result.provider_reason) == (CPU, "torch sees no CUDA device")
    assert (result.threads, result.batch_size, result.warmup, result.repeats) == (1, 5, 2, 4)
    assert list(result.latencies) == list(result.placements) == ["dense", "compact"]
    for latency in result.latencies.values():
        assert len(latency.samples) == 4
        assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms
        assert latency.runs_per_sample > 1  # a run of this model takes microseconds
    for placement in result.placements.values():
        assert placement.on_cpu == placement.nodes > 0
        assert placement.cpu_share == 1.0
        assert "MatMul" in placement.cpu_ops
    assert result.versions == library_versions()


def test_result_is_json_and_readable(models: dict[str, Path], no_cuda: None) -> None:
    result = time_interleaved(models, FEEDS, provider="cpu", warmup=1, repeats=2)
    restored = json.loads(json.dumps(result.to_dict()))
    assert restored["provider"] == CPU
    assert restored["hardware"]["cpu"]
    assert set(restored["latencies"]["dense"]) >= {"median_ms", "p10_ms", "p90_ms", "iqr_ms", "samples"}
    assert set(restored["speedups"]) == {"compact"}
    text = str(result)
    assert f"onnxruntime on {CPU} (the CPU was asked for), 1 thread, batch 5" in text
    assert "compact against dense: " in text
    header = next(line for line in text.splitlines() if line.startswith("model"))
    assert all(len(line) == len(header) for line in text.splitlines() if line.startswith(("dense", "compact  ")))


def test_models_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> None:
            order.append(self.name)

    bound: Any = {"a": Recorder("a"), "b": Recorder("b")}
    samples = timing_module._sample(bound, {"a": 1, "b": 2}, 3, None)
    assert order == ["a", "b", "b"] * 3
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 3, "b": 3}


def test_latency_summary() -> None:
    latency = Latency.of(tuple(float(value) for value in range(11)), runs_per_sample=3)
    assert (latency.p10_ms, latency.median_ms, latency.p90_ms, latency.iqr_ms) == (1.0, 5.0, 9.0, 5.0)
    assert latency.runs_per_sample == 3


def test_speedup_pairs_the_samples_of_a_round() -> None:
    # The machine slows down by half in the second half; within a round the ratio is 2 all the same.
    dense = Latency.of((2.0, 2.0, 4.0, 4.0))
    compact = Latency.of((1.0, 1.0, 2.0, 2.0))
    speedup = result_of({"dense": dense, "compact": compact}).speedup("dense", "compact")
    assert speedup.ratio == pytest.approx(2.0)
    assert (speedup.pairwise_p10, speedup.pairwise_median, speedup.pairwise_p90) == (2.0, 2.0, 2.0)
    assert str(speedup) == "2.00x (by round: median 2.00x, p10 2.00x, p90 2.00x)"


def test_speedup_of_an_unknown_model() -> None:
    with pytest.raises(OptionError, match="no latency of sparse; timed were dense"):
        result_of({"dense": Latency.of((1.0,))}).speedup("dense", "sparse")


def test_one_model_has_no_speedup() -> None:
    result = result_of({"dense": Latency.of((1.0, 2.0))})
    assert result.to_dict()["speedups"] == {}
    assert "against" not in str(result)


def test_explicit_cuda_without_a_device_is_refused(models: dict[str, Path], no_cuda: None) -> None:
    with pytest.raises(OptionError, match="torch sees no CUDA device; use provider='auto'"):
        time_interleaved(models, FEEDS, provider="cuda")


def test_choice_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert choose_provider("auto") == choose_provider("cuda") == (CUDA, "")
    assert choose_provider("cpu") == (CPU, "the CPU was asked for")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    provider, reason = choose_provider("auto")
    assert provider == CPU and "onnxruntime-gpu" in reason
    with pytest.raises(OptionError, match="'tpu' is unknown"):
        choose_provider("tpu")


def test_auto_falls_back_and_says_so(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_cuda(path: Path, provider: str, threads: int, profile_prefix: str | None = None) -> Any:
        if provider == CUDA:
            raise OptionError("libcudnn is missing")
        return real_open_session(path, provider, threads, profile_prefix)

    def choose(requested: str) -> tuple[str, str]:
        return CUDA, ""

    monkeypatch.setattr("graphprune.deploy.timing.choose_provider", choose)
    monkeypatch.setattr("graphprune.deploy.sessions.open_session", without_cuda)
    result = time_interleaved(models, FEEDS, warmup=1, repeats=1)
    assert (result.provider, result.provider_reason) == (CPU, "libcudnn is missing")
    assert "libcudnn is missing" in caplog.text
    with pytest.raises(OptionError, match="libcudnn is missing"):
        time_interleaved(models, FEEDS, provider="cuda", warmup=1, repeats=1)


def test_dropped_provider_is_noticed(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class CpuOnly:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert kwargs["providers"] == [CUDA, CPU]

        def get_providers(self) -> list[str]:
            return [CPU]

    monkeypatch.setattr(onnxruntime, "InferenceSession", CpuOnly)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"))
    with pytest.raises(OptionError, match=f"asked for {CUDA} and opened dense.onnx on {CPU}"):
        real_open_session(models["dense"], CUDA, 1)


def test_placement_counts_each_node_once() -> None:
    def event(name: str, op: str, provider: str) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "args": {"op_name": op, "provider": provider}}

    events = [
        event("conv_kernel_time", "Conv", CUDA),
        event("body_kernel_time", "Add", CUDA),
        event("body_kernel_time", "Add", CUDA),
        event("size_kernel_time", "Shape", CPU),
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "fence", "args": {"op_name": "Conv"}},
    ]
    placement = _placement_of(events)
    assert placement == NodePlacement(nodes=3, on_cpu=1, cpu_ops=("Shape",))
    assert placement.cpu_share == pytest.approx(1 / 3)
    assert NodePlacement(0, 0, ()).cpu_share == 0.0


def test_provider_that_runs_no_node_is_noticed(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def on_cpu(path: Path, provider: str, threads: int, profile_prefix: str | None = None) -> Any:
        return real_open_session(path, CPU, threads, profile_prefix)

    monkeypatch.setattr("graphprune.deploy.sessions.open_session", on_cpu)
    with pytest.raises(OptionError, match=f"{CUDA} ran none of the . nodes of dense.onnx"):
        node_placement(models["dense"], CUDA, 1, FEEDS)


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no ONNX file at"):
        time_interleaved({"gone": tmp_path / "gone.onnx"}, FEEDS, provider="cpu")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="cannot load"):
        time_interleaved({"broken": broken}, FEEDS, provider="cpu")


def test_feeds_that_do_not_fit(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"inputs are \['input'\], the feeds \['x'\]"):
        time_interleaved(models, {"x": FEEDS["input"]}, provider="cpu")
    with pytest.raises(InputError, match=r"float32 \(5, 3\)"):
        time_interleaved(models, {"input": np.ones((5, 3), dtype=np.float32)}, provider="cpu")


def test_wrong_options_are_named_together(models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=r"threads=0 must be 1 or more; repeats=-1 must be 1 or more"):
        time_interleaved(models, FEEDS, threads=0, repeats=-1)
    with pytest.raises(OptionError, match="models is empty"):
        time_interleaved({}, FEEDS)


def test_hardware_is_described(monkeypatch: pytest.MonkeyPatch, no_cuda: None) -> None:
    machine = describe_hardware()
    assert machine.cpu and 1 <= machine.usable_cores <= machine.cores
    assert machine.gpu is None and str(machine).endswith("no GPU")
    monkeypatch.setattr(hardware_module, "_CPU_LISTING", Path("/nonexistent"))
    assert hardware_module._cpu_model()
    assert set(library_versions()) == {"python", "torch", "onnxruntime", "onnx", "numpy"}


@pytest.mark.cuda
def test_cuda_runs_the_nodes(models: dict[str, Path]) -> None:
    result = time_interleaved(models, FEEDS, provider="cuda", warmup=2, repeats=3)
    assert (result.provider, result.provider_reason) == (CUDA, "")
    assert result.hardware.gpu is not None
    for placement in result.placements.values():
        assert placement.on_cpu < placement.nodes
