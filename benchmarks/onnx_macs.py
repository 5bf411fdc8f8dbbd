"""Multiply-accumulates of an ONNX file, counted in the same way for all tools that make files."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
import sympy
from onnx import shape_inference


def count_macs(path: Path, batch_size: int = 1) -> int:
    """Counts multiply-accumulates of convolutions and matrix products, for a batch of that size.

    Raises:
        ValueError: the shape of a convolution or matrix product is not known.
    """
    model = _with_batch(onnx.load(path), batch_size)
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.output, *graph.value_info)}
    shapes |= {entry.name: list(entry.dims) for entry in graph.initializer}
    return sum(_macs(node, shapes) for node in graph.node)


def count_parameters(path: Path) -> int:
    """Counts the numbers in floating-point initializers of at least one dim."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    graph = onnx.load(path).graph
    return sum(prod(entry.dims) for entry in graph.initializer if entry.dims and entry.data_type in floats)


def _with_batch(model: onnx.ModelProto, batch_size: int) -> onnx.ModelProto:
    """Sets the free batch dim of the model, also where it is part of a product; returns the model."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = int(sympy.sympify(dim.dim_param).subs("batch", batch_size))
    return model


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out, weight = shapes.get(node.output[0], []), shapes.get(node.input[1], [])
    if not all(out) or not all(weight):
        raise ValueError(f"{node.op_type} '{node.name}': shapes {out}, {weight}")
    if node.op_type == "Conv":
        return prod(out) * prod(weight[1:])
    if node.op_type == "MatMul":
        return prod(out) * weight[-2]
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return prod(out) * weight[1 if transposed else 0]
