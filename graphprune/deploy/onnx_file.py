"""Save, tidy and check an ONNX file before it is moved to its place."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import onnx
import torch

from graphprune.errors import ExportError


def write_checked(program: torch.onnx.ONNXProgram, path: Path, inputs: Collection[str]) -> onnx.ModelProto:
    """Save a program, name its free batch "batch", and run onnx.checker on the file.

    The weights are in the file itself; near ONNX's limit of 2 GiB, torch puts them into a second file beside it.

    Args:
        program: Program that torch.onnx.export made.
        path: The file to write; a second file gets the same name with a suffix.
        inputs: Names of the inputs, whose dim 0 is the batch where it is free.

    Returns:
        The model, without the weights that lie beside it.

    Raises:
        ExportError: If the checker finds the file invalid.
    """
    program.save(str(path), external_data=False)
    proto = onnx.load(str(path), load_external_data=False)
    _name_batch_axis(proto, inputs)
    for node in all_nodes(proto):
        _drop_source_lines(node)
    onnx.save(proto, str(path))
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # ValidationError, or InferenceError from the full check
        raise ExportError(
            f"onnx.checker {onnx.__version__} refuses the exported file: {error}; an operator is translated wrongly by "
            f"torch.onnx of torch {torch.__version__}: try another version, or replace the operator, and report it"
        ) from error
    return proto


def publish(draft: Path, target: Path) -> int:
    """Move a finished file, and the weights beside it, to their place; the model comes last.

    Args:
        draft: The model, alone with its weights in a directory on the same disk as the target.
        target: Where the model goes; replaced if it exists.

    Returns:
        Size of all files in bytes.
    """
    weights = [file for file in sorted(draft.parent.iterdir()) if file != draft]
    size_bytes = sum(file.stat().st_size for file in (*weights, draft))
    for file in weights:
        os.replace(file, target.with_name(file.name))
    os.replace(draft, target)
    return size_bytes


def opset_version(proto: onnx.ModelProto) -> int:
    """Version of the standard operator set."""
    return next(int(opset.version) for opset in proto.opset_import if opset.domain == "")


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of the graph, of its subgraphs and of the local functions."""
    yield from _nested(proto.graph.node)
    for function in proto.functions:
        yield from _nested(function.node)


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nested(graph.node)


def _name_batch_axis(proto: onnx.ModelProto, inputs: Collection[str]) -> None:
    """Write "batch" for the free dim 0 of the inputs, wherever torch.export's own symbol (``s77``) stands."""
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    first_dims = [value.type.tensor_type.shape.dim[:1] for value in proto.graph.input if value.name in inputs]
    symbols = {dim.dim_param for dims in first_dims for dim in dims if dim.dim_param}
    if not symbols:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(symbols)))})\b")
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub("batch", dim.dim_param)


def _drop_source_lines(node: onnx.NodeProto) -> None:
    """Remove stack traces: they hold paths of the exporting machine, which would make the file depend on it."""
    kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
    del node.metadata_props[:]
    node.metadata_props.extend(kept)
