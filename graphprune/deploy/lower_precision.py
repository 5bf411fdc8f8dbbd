"""Lower precision for a finished ONNX file: float16, for CUDA, and INT8 by onnxruntime's static quantisation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from graphprune.deploy.signature import Feeds
from graphprune.errors import ExportError
from graphprune.registry import check_name

Precision = Literal["float32", "float16", "int8"]
"""The type of weights and activations inside of a file; its inputs and outputs keep the types of the module's."""


def precision_of(given: str) -> Precision:
    """Checks the name of a precision.

    Raises:
        OptionError: the name is unknown.
    """
    check_name("precision", given, get_args(Precision))
    return given  # type: ignore[return-value]


def lower(path: Path, precision: Precision, calibration: Sequence[Feeds]) -> None:
    """Rewrites a float32 file in a lower precision, in place.

    Args:
        path: The file.
        precision: The precision that the file gets.
        calibration: Inputs that show the ranges of activations; for INT8.

    Raises:
        ExportError: onnxruntime's tools cannot convert the file.
    """
    if precision == "float32":
        return
    try:
        _LOWERINGS[precision](path, calibration)
    except Exception as error:  # onnxruntime's tools have no exceptions of their own
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot bring the file to {precision}: {type(error).__name__}: "
            f"{error}; check the data that it was calibrated on, or export with precision='float32'"
        ) from error


def _to_float16(path: Path, calibration: Sequence[Feeds]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each weight that float16 rounds to 0 gives one; the comparison decides
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def _to_int8(path: Path, calibration: Sequence[Feeds]) -> None:
    prepared = path.with_suffix(".prepared.onnx")
    # folds constants and BatchNorm first, so that the ranges are those of the nodes that stay
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, path, _Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True)
    prepared.unlink()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives inputs to the calibration, one by one."""

    def __init__(self, inputs: Iterable[Feeds]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


_LOWERINGS: dict[str, Callable[[Path, Sequence[Feeds]], Any]] = {"float16": _to_float16, "int8": _to_int8}
