"""What benchmarks count and search: figures that results rest on."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arguments import positive, share
from benchmarks.latency import last_of_each, summary, table, to_time
from benchmarks.latency import main as latency_main
from benchmarks.latency_tools import TOOLS, searched
from benchmarks.onnx_macs import count_macs, count_parameters
from benchmarks.trained_networks import CifarResNet
from graphprune.deploy import export_onnx


class Mixed(nn.Module):
    """Convolutions, grouped and strided, windows as a product over the batch, linear layers with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 12, 3, groups=4)
        self.mix, self.head = nn.Linear(12, 6, bias=False), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(torch.relu(self.conv(x))).flatten(2).transpose(1, 2)
        attention = torch.softmax(y @ y.transpose(1, 2), -1) @ y
        rows = self.mix(attention.reshape(-1, 12)).reshape(x.shape[0], -1, 6)
        logits: Tensor = self.head(rows.mean(1))
        return logits


def test_multiply_accumulates_are_those_that_torch_counts(tmp_path: Path) -> None:
    module, x = Mixed().eval(), torch.randn(3, 3, 12, 12)
    path = export_onnx(module, (x,), {}, tmp_path / "mixed.onnx").path
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(x)
    assert count_macs(path, batch_size=3) == counter.get_total_flops() // 2
    assert count_macs(path) * 3 == count_macs(path, batch_size=3)
    assert count_parameters(path) == sum(parameter.numel() for parameter in module.parameters())


def test_a_ratio_is_searched_until_what_is_left_fits() -> None:
    tried: list[float] = []

    def prune(ratio: float) -> float:
        tried.append(ratio)
        return (1 - ratio) ** 2

    assert searched(prune, lambda left: left, wanted=1 / 3, tries=9) == pytest.approx(1 / 3, abs=0.005)
    assert len(tried) == 9
    # steps: the nearest counts, also where it came early
    assert searched(lambda ratio: round(4 * (1 - ratio)) / 4, lambda left: left, wanted=0.5, tries=5) == 0.5


def test_cifar_resnets_have_the_published_size() -> None:
    for blocks, parameters in ((3, 269_722), (9, 853_018)):  # He et al. 2016, table 6: 0.27 and 0.85 millions
        model = CifarResNet(blocks)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_summaries() -> None:
    figures = {"median_ms": 2.0, "speedup": 2.0, "macs_reduction": 4.0, "speedup_per_macs": 0.5, "nodes": 7}
    dense = figures | {"speedup": 1.0, "macs_reduction": 1.0, "speedup_per_macs": 1.0}
    tools = {"dense": dense, "graphprune": figures}
    row = {
        "model": "net", "measure": "macs", "share": 2 / 3, "provider": "CPUExecutionProvider", "threads": 1, "batch": 1,
        "tools": tools, "errors": {"onnxsim": "no"},
    }  # fmt: skip
    faster = row | {"tools": {"dense": dense, "graphprune": figures | {"speedup": 8.0, "speedup_per_macs": 2.0}}}
    on_a_gpu = row | {"provider": "CUDAExecutionProvider", "batch": 64}
    by_setting = summary([row, faster, on_a_gpu])
    assert by_setting["67% of macs, CUDA, threads 1, batch 64: graphprune"]["models"] == 1
    found = by_setting["67% of macs, CPU, threads 1, batch 1: graphprune"]
    assert (found["models"], found["speedup"], found["speedup_per_macs"]) == (2, pytest.approx(4), pytest.approx(1))
    assert "onnxsim" in table([row]) and "2.00x" in table([row])
    assert last_of_each([row, on_a_gpu, faster]) == [faster, on_a_gpu]


def test_tools_that_a_row_lacks_are_timed_with_those_it_has() -> None:
    made = {"model": "net", "threads": 1}
    row = made | {"tools": {"dense": {}, "onnxsim": {}}, "errors": {"torch-pruning": "no"}}
    others = [row | {"threads": 2}, row | {"model": "other"}]
    assert to_time(made, others, None) == list(TOOLS)
    assert to_time(made, others, ["onnxsim"]) == ["onnxsim"]
    assert to_time(made, [row, *others], None) == to_time(made, [row], ["onnxsim", "torch-pruning"]) == []
    assert to_time(made, [row], ["graphprune"]) == ["dense", "graphprune", "torch-pruning", "onnxsim"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about its absence")
def test_a_provider_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["latency", "--provider", "cuda"])
    with pytest.raises(SystemExit):
        latency_main()
    assert "cannot run here" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1e400", "1/0", "nan", "", "x"])
def test_numbers_that_are_none_are_told(text: str) -> None:
    for kind in (share, positive):
        with pytest.raises(ArgumentTypeError, match="expected a number"):
            kind(text)
