"""Writes the compact program as an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from graphprune.deploy import ExportResult, export_onnx
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.example import Example
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class ExportOnnx(Pass):
    """Exports the program with a free batch size, runs the checker, and compares the file with torch.

    Attributes:
        path: The file to write.
        precision: Precision of weights and activations inside: ``"float32"``, ``"float16"`` or ``"int8"``.
        calibration: Inputs that INT8 is calibrated on.
    """

    path: Path
    precision: str = "float32"
    calibration: Sequence[Example] = ()
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({ExportResult})

    def run(self, program: Program) -> PassResult:
        """Writes the file, and adds what was measured on it to the program's facts.

        Raises:
            ExportError: the file would not be valid or would not compute the same; nothing is written then.
            OptionError: the precision is unknown, or the directory of the file does not exist.
        """
        example = program.example
        exported = export_onnx(
            program.module, example.args, example.kwargs, self.path, precision=self.precision,
            calibration=self.calibration,
        )  # fmt: skip
        size, error = f"{exported.size_bytes:,} bytes", f"max rel error {exported.max_rel_error:.2g} against torch"
        return PassResult(program.knowing(exported), True, (f"{size}, batch {exported.batch}, {error}",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """The file exists, and its outputs agree with torch's within the tolerance."""
        exported = result.program[ExportResult]
        problems = [] if exported.path.is_file() else [f"{exported.path} was not written"]
        if not exported.max_rel_error <= exported.tolerance:
            problems.append(f"max rel error {exported.max_rel_error:.3g}, allowed {exported.tolerance:.3g}")
        return problems
