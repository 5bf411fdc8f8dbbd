"""Every contraction has a kernel, whose ONNX model runs and gives what torch would."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphprune.labels.contractions import Contraction, Window
from graphprune.latency.kernels import Kernel, KernelLoops, model_of
from tests.ops.cases import CASES
from tests.small_models import analysed, images

WINDOW = Window((6, 5), (3, 3), (2, 1), (1, 1), (1, 1), transposed=False)
UP = Window((6, 5), (2, 2), (2, 2), (0, 0), (1, 1), transposed=True)


def run(kernel: Kernel, path: Path) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    content, feeds = model_of(kernel, np.dtype("float32"))
    path.write_bytes(content)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    import onnx

    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}
    return feeds, session.run(None, feeds)[0], stored


@pytest.mark.parametrize("kernel", [
    Kernel("Conv", (2, 1, 4, 3), WINDOW),
    Kernel("Conv", (2, 6, 1, 1), WINDOW),
    Kernel("Conv", (2, 2, 3, 4), WINDOW),
    Kernel("ConvTranspose", (2, 1, 4, 3), UP),
    Kernel("ConvTranspose", (2, 2, 3, 4), UP),
], ids=str)  # fmt: skip
def test_convolutions(kernel: Kernel, tmp_path: Path) -> None:
    feeds, found, stored = run(kernel, tmp_path / "kernel.onnx")
    window = kernel.window
    assert window is not None
    weight, bias, x = (torch.from_numpy(array.copy()) for array in (stored["w"], stored["b"], feeds["x"]))
    options: dict[str, Any] = {"stride": window.stride, "padding": window.padding, "groups": kernel.sizes[1]}
    function = F.conv_transpose2d if window.transposed else F.conv2d
    torch.testing.assert_close(torch.from_numpy(found), function(x, weight, bias, **options), rtol=1e-4, atol=1e-4)


def test_products(tmp_path: Path) -> None:
    feeds, found, stored = run(Kernel("Linear", (1, 7, 4, 3)), tmp_path / "linear.onnx")
    np.testing.assert_allclose(found, feeds["x"] @ stored["w"], rtol=1e-5, atol=1e-5)
    feeds, found, stored = run(Kernel("MatMul", (5, 7, 4, 3)), tmp_path / "product.onnx")
    assert not stored
    np.testing.assert_allclose(found, feeds["x"] @ feeds["w"], rtol=1e-5, atol=1e-5)


def multiply_accumulates(kernel: Kernel, contraction: Contraction) -> int:
    positions = contraction.loops[4] if kernel.window is not None else 1
    return prod(kernel.sizes) * positions


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_kernel_does_the_work_of_its_contraction() -> None:
    seen = 0
    for case in CASES:
        for contraction in analysed(case.model(), case.inputs())[1].contractions:
            kernel = KernelLoops.of(contraction).kernel(contraction.loops)
            assert multiply_accumulates(kernel, contraction) == contraction.macs, (case.name, contraction)
            seen += 1
    assert seen > 200


def test_kernels_of_known_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.fc(self.conv(x).mean((2, 3)))

    _, dependencies = analysed(Two(), images(2))
    kernels = [KernelLoops.of(each).kernel(each.loops) for each in dependencies.contractions]
    size = images(2).shape[2:]
    window = Window((size[0], size[1]), (3, 3), (2, 2), (1, 1), (1, 1), transposed=False)
    assert kernels == [Kernel("Conv", (2, 1, 6, 2), window), Kernel("Linear", (1, 2, 3, 6))]
