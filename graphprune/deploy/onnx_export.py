"""Export a module to ONNX: written only when the checker and a comparison with torch have passed."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graphprune.deploy.isolation import isolated_in_eval_mode
from graphprune.deploy.lower_precision import Precision, lower, precision_of
from graphprune.deploy.onnx_file import all_nodes, opset_version, publish, write_checked
from graphprune.deploy.parity import (
    HALF_RELATIVE_TOLERANCE,
    INT8_RELATIVE_TOLERANCE,
    BatchSizeError,
    Parity,
    check_parity,
    fresh_examples,
    run_torch,
)
from graphprune.deploy.signature import feed, onnx_feeds, output_names, tensor_leaves
from graphprune.deploy.translate import Request, capture, quiet_exporter, summary
from graphprune.errors import ExportError, InputError, OptionError
from graphprune.program.example import Example
from graphprune.program.facts import Fact

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult(Fact):
    """The file that was written, and how it compares with torch.

    Attributes:
        path: The ONNX file.
        size_bytes: Size on disk, with the external data that ONNX requires above 2 GiB.
        node_count: Number of nodes of the file, including those inside loops, branches and local functions.
        opset: Version of the standard operator set.
        batch: "dynamic" if dim 0 is free, "static" if it is fixed to the example's.
        batch_reason: Why the batch is static; empty where it is dynamic.
        input_names: Names of the inputs, in the order of the example's tensors.
        output_names: Names of the outputs, in the order of the module's.
        max_abs_error: Largest difference to torch, in units of the output.
        max_rel_error: Largest difference as a share of the output's largest magnitude.
        rms_rel_error: Root mean square of the difference, divided by that of the output, for the worst output.
        tolerance: Largest `max_rel_error` that is allowed.
        batch_sizes: Batch sizes that were compared.
        precision: Precision of weights and activations inside; inputs and outputs are the module's.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("export-onnx",)

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
    rms_rel_error: float
    tolerance: float
    batch_sizes: tuple[int, ...]
    precision: Precision = "float32"

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self) | {"path": str(self.path)}


_RANDOM_CALIBRATION = 8
"""Number of sets of random inputs that INT8 is calibrated on where there is no data."""

_LOWER_TOLERANCES: dict[str, float] = {"float16": HALF_RELATIVE_TOLERANCE, "int8": INT8_RELATIVE_TOLERANCE}


def export_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    precision: str = "float32",
    calibration: Sequence[Example] = (),
    seed: int = 0,
) -> ExportResult:
    """Export `module` in eval mode, check the file, compare it with torch, and only then write it to `path`.

    The module keeps its modes, buffers and gradients, and the process its random state. On failure, nothing is written,
    and a file that was at `path` stays.

    Args:
        module: Any module that torch.export can trace.
        args: Positional example inputs; dim 0 of the first tensor is the batch, and so is dim 0 of every tensor in
            which it has the same size.
        kwargs: Keyword example inputs, batched in the same way.
        path: Target file, in an existing directory.
        dynamic_batch: Leave the batch free. Where the module does not allow it, the batch is fixed to the example's and
            the result says why.
        precision: ``"float32"``: as the module is. ``"float16"``, which CUDA runs faster. ``"int8"``: convolutions and
            products quantised statically, with the error that the result tells.
        calibration: Inputs that show the ranges of activations, for INT8; of several the last one is kept for the
            comparison, of one its second half where the batch is free. Without any, random inputs like the example's
            serve, which a log message says.
        seed: Seed of random inputs.

    Raises:
        ExportError: If the module cannot be exported, or the file fails the checker or differs from torch.
        InputError: If the module fails on its example input.
        OptionError: If `path` is a directory or lies in none, or the precision is unknown.
    """
    target, how = _checked_target(path), precision_of(precision)
    example = Example(tuple(args), dict(kwargs)).mapped(Tensor.detach)
    with isolated_in_eval_mode(module), quiet_exporter():
        request = _request(module, example, how, tuple(calibration), seed)
        reason = _static_reason(request, dynamic_batch)
        try:
            result = _write(request, target, reason)
        except BatchSizeError as error:
            result = _write(request, target, str(error))
    if result.batch_reason and dynamic_batch:
        _log.warning("%s: the batch is fixed to %d: %s", target.name, example.batch_size, result.batch_reason)
    return result


def _write(request: Request, target: Path, reason: str) -> ExportResult:
    """Export, check, compare, and move into place; `reason` says why the batch is fixed, and is empty if it is free."""
    program, reason = capture(request, reason)
    batch_sizes = [request.example.batch_size] if reason else _batch_sizes(request.example)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        draft = Path(scratch) / target.name
        proto = write_checked(program, draft, request.inputs)
        parity = _compared(request, draft, fresh_examples(request.example, batch_sizes, request.seed))
        if request.precision != "float32":
            parity = _lowered(request, draft, batch_sizes)
            proto = onnx.load(str(draft), load_external_data=False)
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
        precision=request.precision,
        **asdict(parity),
    )


def _compared(request: Request, draft: Path, examples: Iterable[Example], **tolerance: float) -> Parity:
    return check_parity(request.module, draft, request.inputs, request.outputs, examples, **tolerance)


def _lowered(request: Request, draft: Path, batch_sizes: Sequence[int]) -> Parity:
    """Lower the precision of the draft, which computes what the module does, and measure the error that this makes."""
    calibration = [_in_order(each, request.example) for each in request.calibration]
    if len(calibration) == 1 and len(batch_sizes) > 1 and calibration[0].batch_size > 1:
        (whole,) = calibration
        edges = (0, whole.batch_size // 2, whole.batch_size)
        calibration = [whole.rows(*part, like=request.example) for part in pairwise(edges)]
    held_out = [calibration.pop()] if len(calibration) > 1 else calibration[:]
    if request.precision == "int8" and not calibration:
        _log.warning("%s: no data to calibrate INT8 on; random inputs like the example's are used", draft.name)
        sizes = [request.example.batch_size] * _RANDOM_CALIBRATION
        calibration = [*fresh_examples(request.example, sizes, request.seed + 1)]
    feeds = [feed(request.inputs, tensor_leaves((each.args, each.kwargs))) for each in calibration]
    lower(draft, request.precision, feeds)
    examples = held_out or fresh_examples(request.example, batch_sizes, request.seed)
    return _compared(request, draft, examples, tolerance=_LOWER_TOLERANCES[request.precision])


def _in_order(inputs: Example, example: Example) -> Example:
    """Put the keyword arguments of inputs into the example's order, in which the file's inputs are named.

    Raises:
        InputError: If the arguments are not those of the example.
    """
    kwargs = {name: inputs.kwargs[name] for name in example.kwargs if name in inputs.kwargs}
    ordered = Example(inputs.args, kwargs)
    if len(kwargs) < len(inputs.kwargs) or len(ordered.tensors()) != len(example.tensors()):
        raise InputError(
            f"data: inputs {_told(inputs)} are not those of the example, {_told(example)}; an ONNX file takes the same "
            "inputs each time"
        )
    return ordered


def _told(example: Example) -> str:
    return ", ".join([str(tuple(each.shape)) for each in example.tensors()] + [f"{name}=" for name in example.kwargs])


def _checked_target(path: str | Path) -> Path:
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"cannot export to {target}: it is a directory; give the name of a file")
    if not target.parent.is_dir():
        raise OptionError(f"cannot export to {target}: there is no directory {target.parent}; create it first")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise OptionError(f"cannot export to {target}: {target.parent} cannot be written to: {why}") from error
    return target


def _request(
    module: nn.Module, example: Example, precision: Precision, calibration: tuple[Example, ...], seed: int
) -> Request:
    """Name inputs and outputs; run the module once to see what it returns."""
    if example.batch_size < 1:
        raise InputError("the example input has a batch of 0; give at least one sample")
    try:
        outputs = run_torch(module, example)
    except Exception as error:
        raise InputError(f"the module fails on its example input: {summary(error)}") from error
    inputs = tuple(onnx_feeds(module, example))
    names = output_names(outputs, taken=inputs)
    others = {type(leaf).__name__ for leaf in tree_leaves(outputs) if not isinstance(leaf, Tensor | None)}
    if others or not names:
        raise ExportError(
            f"the module returns {', '.join(sorted(others)) or 'no tensor'}; an ONNX file returns tensors only: "
            "let the module return a tensor, or a tuple, list or dict of tensors"
        )
    return Request(module, example, inputs, names, precision, calibration, seed)


def _static_reason(request: Request, dynamic_batch: bool) -> str:
    """Why the batch has to be fixed, as far as torch alone can tell; empty where it may be free."""
    if not dynamic_batch:
        return "dynamic_batch=False"
    if not any(tensor.dim() for tensor in request.example.tensors()):
        return "no tensor input has a batch dimension"
    other = _batch_sizes(request.example)[1]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a graph module prints where it fails; here it may fail
            run_torch(request.module, request.example.resized(other))
    except Exception as error:
        return f"the module itself fails at batch {other}: {summary(error)}"
    return ""


def _batch_sizes(example: Example) -> list[int]:
    """The example's batch size and another small one; the latter is not 2, at which a batch of 1 is captured."""
    return [example.batch_size, 5 if example.batch_size == 3 else 3]
