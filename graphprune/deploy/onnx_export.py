"""Export a module to ONNX: written only when the checker and a comparison with torch have passed."""

from __future__ import annotations

import inspect
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

from graphprune.deploy.attention import with_plain_attention
from graphprune.deploy.isolation import isolated_in_eval_mode
from graphprune.deploy.onnx_file import all_nodes, opset_version, publish, write_checked
from graphprune.deploy.parity import BatchSizeError, check_parity, run_torch
from graphprune.deploy.signature import onnx_feeds, output_names
from graphprune.errors import ExportError, InputError, OptionError
from graphprune.program import Example

_log = logging.getLogger(__name__)

_NOISE = (
    # An LSTM or GRU builds its list of flat weights while torch.export traces it, and gets the old list back.
    (UserWarning, r"The tensor attributes? .* assigned during export"),
    # torch's own decompositions of recurrent layers call what torch itself deprecates.
    (FutureWarning, r"_check_is_size will be removed"),
    # torch.export looks at the gradients of its own intermediate tensors.
    (UserWarning, r"The \.grad attribute of a Tensor that is not a leaf"),
)
"""Warnings of the exporter that a user can do nothing about: category and beginning of the message."""


@dataclass(frozen=True)
class ExportResult:
    """What was written and what was measured on it.

    Attributes:
        path: The ONNX file.
        size_bytes: Size on disk, with the external data that ONNX requires above 2 GiB.
        node_count: Nodes of the file, those inside loops, branches and local functions included.
        opset: Version of the standard operator set.
        batch: "dynamic" if dim 0 is free, "static" if it is fixed to the example's.
        batch_reason: Why the batch is static; empty where it is dynamic.
        input_names: In the order of the example's tensors.
        output_names: In the order of the module's outputs.
        max_abs_error: Largest difference to torch, in units of the output.
        max_rel_error: Largest difference as a share of the output's largest magnitude.
        tolerance: What `max_rel_error` may be at most.
        batch_sizes: Batch sizes that were compared.
    """

    path: Path
    size_bytes: int
    node_count: int
    opset: int
    batch: Literal["dynamic", "static"]
    batch_reason: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    max_abs_error: float
    max_rel_error: float
    tolerance: float
    batch_sizes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self) | {"path": str(self.path)}


@dataclass(frozen=True)
class _Request:
    """What to export, under which names."""

    module: nn.Module
    example: Example
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    seed: int = 0,
) -> ExportResult:
    """Export `module` in eval mode, check the file, compare it with torch, and only then write it to `path`.

    The module keeps its modes, buffers and gradients, the process its random state. On failure nothing is written, and
    a file that was at `path` stays.

    Args:
        module: Any module that torch.export can trace.
        args: Positional example inputs; dim 0 of the first tensor is the batch, and of all that share its size.
        kwargs: Keyword example inputs, likewise.
        path: Target file, in an existing directory.
        dynamic_batch: Leave the batch free. Where the module does not allow it, the batch is fixed to the example's and
            the result says why.
        seed: Of the random inputs of the comparison.

    Raises:
        ExportError: If the module cannot be exported, or the file fails the checker or differs from torch.
        InputError: If the module fails on its example input.
        OptionError: If `path` is a directory or lies in none.
    """
    target = _checked_target(path)
    example = Example(tuple(args), dict(kwargs)).mapped(Tensor.detach)
    with isolated_in_eval_mode(module), _quiet_exporter():
        request = _request(module, example)
        reason = _static_reason(request, dynamic_batch)
        try:
            result = _write(request, target, reason, seed)
        except BatchSizeError as error:
            result = _write(request, target, str(error), seed)
    if result.batch_reason and dynamic_batch:
        _log.warning("%s: the batch is fixed to %d: %s", target.name, example.batch_size, result.batch_reason)
    return result


def _write(request: _Request, target: Path, reason: str, seed: int) -> ExportResult:
    """Export, check, compare, and move into place; `reason` is why the batch is fixed, empty to leave it free."""
    program, reason = _capture(request, reason)
    batch_sizes = [request.example.batch_size] if reason else _batch_sizes(request.example)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        draft = Path(scratch) / target.name
        proto = write_checked(program, draft, request.inputs)
        parity = check_parity(
            request.module, draft, request.inputs, request.outputs, request.example, batch_sizes, seed
        )
        size_bytes = publish(draft, target)
    return ExportResult(
        path=target,
        size_bytes=size_bytes,
        node_count=sum(1 for _ in all_nodes(proto)),
        opset=opset_version(proto),
        batch="static" if reason else "dynamic",
        batch_reason=reason,
        input_names=request.inputs,
        output_names=request.outputs,
        **asdict(parity),
    )


def _checked_target(path: str | Path) -> Path:
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"cannot export to {target}: it is a directory; give the name of a file")
    if not target.parent.is_dir():
        raise OptionError(f"cannot export to {target}: there is no directory {target.parent}; create it first")
    return target


def _request(module: nn.Module, example: Example) -> _Request:
    """Name inputs and outputs; runs the module once to see what it returns."""
    if example.batch_size < 1:
        raise InputError("the example input has a batch of 0; give at least one sample")
    try:
        outputs = run_torch(module, example)
    except Exception as error:
        raise InputError(f"the module fails on its example input: {_summary(error)}") from error
    inputs = tuple(onnx_feeds(module, example))
    names = output_names(outputs, taken=inputs)
    others = {type(leaf).__name__ for leaf in tree_leaves(outputs) if not isinstance(leaf, Tensor | None)}
    if others or not names:
        raise ExportError(
            f"the module returns {', '.join(sorted(others)) or 'no tensor'}; an ONNX file returns tensors only: "
            "let the module return a tensor, or a tuple, list or dict of tensors"
        )
    return _Request(module, example, inputs, names)


def _static_reason(request: _Request, dynamic_batch: bool) -> str:
    """Why the batch has to be fixed, as far as torch alone can tell; empty where it may be free."""
    if not dynamic_batch:
        return "dynamic_batch=False"
    if not any(tensor.dim() for tensor in request.example.tensors()):
        return "no tensor input has a batch dimension"
    other = _batch_sizes(request.example)[1]
    try:
        run_torch(request.module, request.example.resized(other))
    except Exception as error:
        return f"the module itself fails at batch {other}: {_summary(error)}"
    return ""


def _batch_sizes(example: Example) -> list[int]:
    """The example's batch and a small one, which is not the one that a batch of 1 is captured at either."""
    return [example.batch_size, 5 if example.batch_size == 3 else 3]


def _capture(request: _Request, reason: str) -> tuple[torch.onnx.ONNXProgram, str]:
    """Translate the module, with a free batch unless there is a reason against it; returns the reason that holds."""
    if not reason:
        # torch.export treats a size of 1 as a constant, so a single sample is captured as two.
        example = request.example.resized(max(request.example.batch_size, 2))
        try:
            return _translate(request, example, _dynamic_shapes(request.module, example)), ""
        except Exception as error:
            reason = f"torch.export cannot leave it free: {_summary(error)}"
            _log.debug("dynamic export failed", exc_info=error)
    try:
        return _translate(request, request.example, None), reason
    except Exception as error:
        raise ExportError(
            f"torch.onnx.export cannot export {type(request.module).__name__}: {_summary(error)}; "
            "rewrite the named operation, or keep it out of the exported module"
        ) from error


def _dynamic_shapes(module: nn.Module, example: Example) -> dict[str, Any]:
    """A free dim 0 for every batched tensor, in the structure of forward's own arguments."""

    def free_batch(leaf: Any) -> Any:
        return {0: Dim.DYNAMIC} if isinstance(leaf, Tensor) and example.is_batched(leaf) else None

    arguments = inspect.signature(module.forward).bind(*example.args, **example.kwargs).arguments
    shapes: dict[str, Any] = tree_map(free_batch, dict(arguments))
    return shapes


def _translate(request: _Request, example: Example, dynamic_shapes: dict[str, Any] | None) -> torch.onnx.ONNXProgram:
    args = example.args
    if args and isinstance(args[-1], dict) and not example.kwargs:
        args = (*args, {})  # torch.onnx.export takes a dict at the end for the keyword arguments
    program = torch.onnx.export(
        with_plain_attention(request.module),
        args,
        kwargs=example.kwargs,
        dynamo=True,
        verbose=False,
        dynamic_shapes=dynamic_shapes,
    )
    assert program is not None  # None is for the exporter before dynamo
    _assign_names(program.model.graph, request)
    return program


def _assign_names(graph: Any, request: _Request) -> None:
    """Name inputs and outputs of an onnx_ir graph; an inner value of the same name gets another one.

    torch.onnx.export can name them too, but does not look whether a weight or an inner value has that name already.
    """
    named = {"takes": (request.inputs, graph.inputs), "returns": (request.outputs, graph.outputs)}
    for verb, (names, values) in named.items():
        if len({id(value) for value in values}) != len(names):
            raise ExportError(
                f"the module {verb} the tensors {', '.join(names)}, the ONNX graph {len(values)} of them; "
                "let the module take and return tensors, no sizes or other numbers that depend on them"
            )
    pairs = [(name, value) for names, values in named.values() for name, value in zip(names, values, strict=True)]
    outer = {id(value) for _, value in pairs}
    taken = {name for name, _ in pairs}
    inner = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in inner:
        if value.name in taken and id(value) not in outer:
            value.name = f"{value.name}_inner"
    for name, value in pairs:
        value.name = name


def _summary(error: BaseException) -> str:
    """The innermost cause in one short line, without the colours that torch puts into its messages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    line = " ".join(text.split())
    return f"{type(error).__name__}: {line[:300]}{'...' if len(line) > 300 else ''}"


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about its own internals; warnings that are not in `_NOISE` pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in _NOISE:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
