"""Checks that the ONNX file computes what the module computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphprune.deploy.sessions import CPU, open_session
from graphprune.deploy.signature import Feeds, feed, tensor_leaves
from graphprune.errors import ArtifactError, ExportError
from graphprune.program.example import Example

RELATIVE_TOLERANCE = 1e-4
"""Largest allowed error of a float32 output, as a share of the output's largest magnitude.

Two correct implementations that sum in another order differ by about 1e-6 of the scale; a wrong index or constant
differs by far more than 1e-4.
"""

HALF_RELATIVE_TOLERANCE = 1e-2
"""Tolerance for float16, whose rounding step is 1e-3."""

INT8_RELATIVE_TOLERANCE = 1.0
"""Tolerance for INT8: an error as large as the output itself leaves nothing of it. How good a quantised network is, its
root mean square error tells."""


@dataclass(frozen=True)
class Parity:
    """Largest differences between torch and onnxruntime over all outputs and batch sizes.

    Attributes:
        max_abs_error: Largest difference, in units of the output.
        max_rel_error: The absolute error divided by the largest magnitude of the output it occurs in.
        rms_rel_error: Root mean square of the error, divided by that of the output; of the worst output.
        tolerance: What `max_rel_error` may be at most.
        batch_sizes: Batch sizes that were run.
    """

    max_abs_error: float
    max_rel_error: float
    rms_rel_error: float
    tolerance: float
    batch_sizes: tuple[int, ...]


class BatchSizeError(ExportError):
    """onnxruntime runs the file at the example's batch only: a size that depends on it is fixed inside the graph."""


@dataclass(frozen=True)
class _Difference:
    """The comparison of one output at one batch size; `problem` is empty where it passed."""

    abs_error: float
    rel_error: float
    rms_error: float
    tolerance: float
    problem: str


def check_parity(
    module: nn.Module,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    examples: Iterable[Example],
    tolerance: float = RELATIVE_TOLERANCE,
) -> Parity:
    """Run the module and the file on the same inputs and compare every output.

    Args:
        module: The module, in eval mode.
        path: The ONNX file.
        inputs: Names of the file's inputs, in the order of the example's tensors.
        outputs: Names of the file's outputs, in the order of the module's.
        examples: Inputs to try.
        tolerance: Largest allowed error as a share of the output's largest magnitude; float16 outputs are allowed more.

    Raises:
        BatchSizeError: If onnxruntime runs the file on the first inputs and refuses it at another batch size.
        ExportError: If onnxruntime refuses the file, or an output differs; all outputs that differ are named.
    """
    try:
        session = open_session(path, CPU, torch.get_num_threads())
    except ArtifactError as error:
        raise ExportError(f"onnxruntime refuses the exported file: {error}") from error
    differences: list[_Difference] = []
    batch_sizes: list[int] = []
    for example in examples:
        batch_size = example.batch_size
        expected = tensor_leaves(run_torch(module, example))
        try:
            got = _run_onnx(session, feed(inputs, tensor_leaves((example.args, example.kwargs))), outputs)
        except Exception as error:  # onnxruntime's exceptions have no common base below Exception
            kind = BatchSizeError if differences else ExportError
            line = " ".join(str(error).split())
            raise kind(f"onnxruntime cannot run the exported file at batch {batch_size}: {line}") from error
        batch_sizes.append(batch_size)
        differences += [
            _compare(f"output '{name}' at batch {batch_size}", want, have, tolerance)
            for name, want, have in zip(outputs, expected, got, strict=True)
        ]
    _raise_problems([difference.problem for difference in differences if difference.problem])
    return Parity(
        max_abs_error=max(difference.abs_error for difference in differences),
        max_rel_error=max(difference.rel_error for difference in differences),
        rms_rel_error=max(difference.rms_error for difference in differences),
        tolerance=max(difference.tolerance for difference in differences),
        batch_sizes=tuple(dict.fromkeys(batch_sizes)),
    )


def fresh_examples(example: Example, batch_sizes: Iterable[int], seed: int) -> Iterator[Example]:
    """Random inputs with the shapes, types and statistics of the example's, one set for each batch size."""
    generator = torch.Generator().manual_seed(seed)
    for batch_size in batch_sizes:
        with torch.no_grad():
            fresh = example.fresh(batch_size, generator)
        yield fresh


def run_torch(module: nn.Module, example: Example) -> Any:
    """Outputs of the module without autograd and without reduced-precision products."""
    with torch.no_grad(), _full_float32():
        return module(*example.args, **example.kwargs)


def _run_onnx(session: Any, feeds: Feeds, outputs: Sequence[str]) -> list[NDArray[Any]]:
    """Outputs of the file, in the order of their names."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # fatal only: an error is raised as well, so it need not be printed
    return list(session.run(list(outputs), feeds, options))


def _compare(where: str, expected: Tensor, got: NDArray[Any], tolerance: float) -> _Difference:
    """Compare one output; infinities and NaN must be at the same places."""
    if expected.dtype is torch.float16:
        tolerance = max(tolerance, HALF_RELATIVE_TOLERANCE)
    want = expected.detach().cpu().to(torch.float64).numpy()
    if want.shape != got.shape:
        problem = f"{where}: expected shape {want.shape} (torch), got {got.shape} (onnxruntime)"
        return _Difference(np.inf, np.inf, np.inf, tolerance, problem)
    have = got.astype(np.float64)
    same = (want == have) | (np.isnan(want) & np.isnan(have))
    with np.errstate(invalid="ignore"):  # inf - inf, where `same` holds
        errors = np.where(same, 0.0, np.nan_to_num(np.abs(want - have), nan=np.inf))
    if not errors.any():
        return _Difference(0.0, 0.0, 0.0, tolerance, "")
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 0.0
    abs_error = float(errors.max())
    rel_error = abs_error / scale if scale else np.inf
    if rel_error <= tolerance:
        rms_error = float(np.sqrt(np.mean(errors**2) / np.mean(finite**2)))
        return _Difference(abs_error, rel_error, rms_error, tolerance, "")
    index = tuple(int(i) for i in np.unravel_index(int(errors.argmax()), errors.shape))
    problem = (
        f"{where}: expected {want[index]:.6g} (torch), got {have[index]:.6g} (onnxruntime) at index {index}; "
        f"the difference is {rel_error:.3g} of the output's scale, the tolerance {tolerance:.0e}"
    )
    return _Difference(abs_error, rel_error, np.inf, tolerance, problem)


def _raise_problems(problems: list[str]) -> None:
    if not problems:
        return
    raise ExportError(
        "the exported file does not compute what the module computes:\n  "
        + "\n  ".join(problems)
        + "\nIf only one batch size differs, export with dynamic_batch=False; if the module draws random numbers in "
        "eval mode, no comparison can hold; else an operator is translated wrongly, please report it with the model"
    )


@contextmanager
def _full_float32() -> Iterator[None]:
    """Switch TF32 and bfloat16 products off: on an Ampere GPU cuDNN's default rounds to 1e-3, above the tolerance."""
    backends = torch.backends
    switches: list[Any] = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]  # type: ignore[attr-defined]
    switches += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch, precision in zip(switches, before, strict=True):
            if precision not in ("none", "ieee"):
                switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision
