"""Contractions as onnxruntime runs them: an operator with sizes, and the smallest ONNX model that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from graphprune.labels.contractions import Contraction, Window

Operator = Literal["Conv", "ConvTranspose", "MatMul", "Linear"]

OPSET, IR_VERSION = 18, 9


@dataclass(frozen=True)
class Kernel:
    """One operator at fixed sizes.

    Attributes:
        op: A convolution, a product of two computed matrices, or ``"Linear"``: a product with a constant one.
        sizes: Of a convolution samples, groups, output and input channels of a group; of a product entries, rows,
            columns and what is summed over.
        window: Window of a convolution.
    """

    op: Operator
    sizes: tuple[int, int, int, int]
    window: Window | None = None


@dataclass(frozen=True)
class KernelLoops:
    """Which loops of a contraction make up each size of its kernel."""

    op: Operator
    loops: tuple[frozenset[int], frozenset[int], frozenset[int], frozenset[int]]
    window: Window | None = None

    @classmethod
    def of(cls, contraction: Contraction) -> KernelLoops:
        """Returns which loops of a contraction make up its kernel's sizes."""
        if contraction.window is not None:
            op: Operator = "ConvTranspose" if contraction.window.transposed else "Conv"
            return cls(op, (frozenset([0]), frozenset([1]), frozenset([2]), frozenset([3])), contraction.window)
        first, second = contraction.operands[0], frozenset().union(*contraction.operands[1:])
        summed = contraction.summed
        entries, columns = (first & second) - summed, second - first - summed
        rows = frozenset(range(len(contraction.loops))) - entries - columns - summed
        return cls("MatMul" if entries else "Linear", (entries, rows, columns, summed))

    def kernel(self, sizes: Sequence[int]) -> Kernel:
        """Returns the kernel for given sizes of the loops."""
        entries, rows, columns, summed = (prod(sizes[loop] for loop in loops) for loops in self.loops)
        return Kernel(self.op, (entries, rows, columns, summed), self.window)


def model_of(kernel: Kernel, dtype: np.dtype[Any]) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Returns an ONNX model that holds this operator alone, and inputs for it."""
    rng = np.random.default_rng(0)

    def tensor(*shape: int) -> NDArray[Any]:
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)

    first, second, *bias = _operands(kernel)
    constant = kernel.op != "MatMul"
    feeds = {"x": tensor(*first)} | ({} if constant else {"w": tensor(*second)})
    stored = {"w": tensor(*second)} if constant else {}
    if bias:
        stored["b"] = tensor(*bias[0])
    op = "MatMul" if kernel.window is None else kernel.op
    node = onnx.helper.make_node(op, ["x", "w", *"b"[: len(bias)]], ["y"], **_attributes(kernel))
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    graph = onnx.helper.make_graph(
        [node],
        kernel.op,
        [onnx.helper.make_tensor_value_info(name, kind, array.shape) for name, array in feeds.items()],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString(), feeds


def _operands(kernel: Kernel) -> list[tuple[int, ...]]:
    """Shapes of the input, the weight and, for a convolution, the bias."""
    entries, groups_or_rows, outer, inner = kernel.sizes
    window = kernel.window
    if window is None:
        batch = (entries,) if kernel.op == "MatMul" else ()
        return [(*batch, groups_or_rows, inner), (*batch, inner, outer)]
    groups = groups_or_rows
    source = (entries, groups * inner, *window.size)
    if window.transposed:
        return [source, (groups * inner, outer, *window.kernel), (groups * outer,)]
    return [source, (groups * outer, inner, *window.kernel), (groups * outer,)]


def _attributes(kernel: Kernel) -> dict[str, Any]:
    window = kernel.window
    if window is None:
        return {}
    return {
        "group": kernel.sizes[1], "strides": list(window.stride), "pads": list(window.padding) * 2,
        "dilations": list(window.dilation), "kernel_shape": list(window.kernel),
    }  # fmt: skip
