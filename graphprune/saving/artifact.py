"""Saved results: a directory with the plan, the weights, the ONNX file, the report, and a manifest with checksums.

No file holds a pickle, so that loading an artifact runs no code that it brings along.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.capture import unwrapped
from graphprune.deploy import ExportResult
from graphprune.deploy.isolation import isolated_in_eval_mode
from graphprune.deploy.parity import HALF_RELATIVE_TOLERANCE, RELATIVE_TOLERANCE, run_torch
from graphprune.deploy.signature import tensor_leaves
from graphprune.errors import ArtifactError, ExportError, OptionError, shown
from graphprune.plan.names import names_of_dropped
from graphprune.plan.plan import Plan, listed, load_plan, on_device_of
from graphprune.plan.trees import encode_outputs
from graphprune.program.example import Example
from graphprune.report import Report
from graphprune.saving.manifest import MANIFEST, CallForm, Manifest, StoredFile, is_artifact
from graphprune.saving.runtime import OnnxModule
from graphprune.saving.tensors import read_outputs, read_weights, write_outputs, write_weights
from graphprune.version import __version__

PLAN, WEIGHTS, ONNX = "plan.json", "weights.safetensors", "model.onnx"
OUTPUTS = "outputs.safetensors"
"""Where there is no ONNX file: what the module computes for inputs that loading draws again."""
REPORT, REPORT_TEXT = "report.json", "report.txt"
FILES = (PLAN, WEIGHTS, ONNX, REPORT, REPORT_TEXT, MANIFEST)

_TOLERANCES = dict.fromkeys((torch.float16, torch.bfloat16), HALF_RELATIVE_TOLERANCE)
"""Tolerances of types coarser than float32, as a share of the largest value; with the slack, 13 steps of bfloat16."""

_SLACK = 10
"""Factor on the export's tolerance for a loaded module, because other inputs and another machine round differently.

What the comparison has to find (another activation, another stride) differs by far more.
"""


Export = Callable[[Path], ExportResult]
"""Writes the compact module as ONNX to a path."""


def save(plan: Plan, module: fx.GraphModule, report: Report, export: Export | None, directory: str | Path) -> Path:
    """Writes an artifact; the directory appears only when it is complete, and replaces an artifact that was there.

    Args:
        plan: What was kept.
        module: The compact module, with the weights that it has now.
        report: What was done.
        export: Writes the ONNX file; None to leave it out.
        directory: Target directory, which is created with its parents if it does not exist.

    Returns:
        The directory.

    Raises:
        ArtifactError: the directory holds other files, which stay, or cannot be written.
        ExportError: the module cannot be exported to a valid ONNX file; nothing is written then.
    """
    try:
        target = Path(directory).resolve()
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            draft = Path(scratch) / "new"
            draft.mkdir()
            _write(plan, module, report, export, draft)
            _move_into_place(draft, target, Path(scratch) / "old")
    except ExportError as error:
        remedy = "save(..., onnx=False) leaves the ONNX file out, `graphprune compile --no-onnx` too"
        raise ExportError(f"{error}\n{remedy}") from error
    except OSError as error:
        raise ArtifactError(f"the artifact {directory} cannot be written: {error}") from error
    return Path(directory)


def load(directory: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Loads an artifact.

    Args:
        directory: Directory that ``compiled.save()`` wrote.
        model: A fresh instance of the class that was compiled, built with the same arguments; it is not changed.
            Without a model, the stored program is run as it is.

    Returns:
        With ``model``, the compact module with the saved weights, on the model's device and in its mode; it can be
        trained. Without ``model``, a `graphprune.saving.runtime.OnnxModule`, which cannot.

    Raises:
        ArtifactError: the artifact is missing, damaged, of another version or not from graphprune, or the model is not
            the one that it was made from.
        OptionError: ``directory`` is not a path, or ``model`` is not an instance of a module.
    """
    if not isinstance(directory, (str, Path)):
        raise OptionError(f"directory={shown(directory)}: give the directory that compiled.save() wrote")
    path = Path(directory)
    if model is not None and not isinstance(model, nn.Module):
        raise OptionError(f"model={shown(model)}: give an instance of the class that was compiled, or nothing")
    try:
        manifest, plan = _checked(path)
    except OSError as error:
        raise ArtifactError(f"the artifact {directory} cannot be read: {error}") from error
    if model is None:
        if manifest.call is None:
            raise ArtifactError(
                f"{directory} was saved with onnx=False, and the ONNX file is what runs without a model; give load() a "
                f"fresh instance of {plan.model}"
            )
        return OnnxModule(path / ONNX, manifest.call, plan.example)
    module = _replayed(plan, path / PLAN, model)
    read_weights(module, path / WEIGHTS, manifest.aliases, names_of_dropped(unwrapped(model), module).keys())
    example = _reference_inputs(plan)
    expected, source = _stored_outputs(path, manifest, plan, example)
    _check_same_function(module, example, expected, plan, source, type(unwrapped(model)).__name__)
    return module


def _replayed(plan: Plan, path: Path, model: nn.Module) -> fx.GraphModule:
    try:
        return plan.apply(model)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _stored_outputs(path: Path, manifest: Manifest, plan: Plan, example: Example) -> tuple[list[Tensor], str]:
    """What the artifact itself computes for an example, and the name of the file that says so."""
    if manifest.call is None:
        return read_outputs(path / OUTPUTS), OUTPUTS
    stored = OnnxModule(path / ONNX, manifest.call, plan.example, provider="cpu")
    with torch.no_grad():
        return tensor_leaves(stored(*example.args, **example.kwargs)), ONNX


def _checked(path: Path) -> tuple[Manifest, Plan]:
    """Reads manifest and plan of an artifact, and checks that all of its files are as they were written."""
    manifest = Manifest.read(path)
    program = OUTPUTS if manifest.call is None else ONNX
    missing = [name for name in (PLAN, WEIGHTS, program, REPORT, REPORT_TEXT) if name not in manifest.files]
    if missing:
        raise ArtifactError(f"{path / MANIFEST} does not list {', '.join(missing)}; save the artifact again")
    manifest.check_files(path)
    return manifest, load_plan(path / PLAN)


def _check_replaceable(target: Path) -> None:
    """Refuses to replace anything but an artifact or an empty directory."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ArtifactError(f"{target} is a file; give the name of a directory")
    entries = sorted(target.iterdir())
    foreign = [entry.name for entry in entries if entry.is_dir() or not _is_own(entry.name)]
    if not foreign and entries and not is_artifact(target):
        foreign = [entry.name for entry in entries]
    if foreign:
        raise ArtifactError(
            f"{target} holds files that are not of an artifact, which saving would delete:\n  {listed(foreign)}\n"
            "Give another directory, or move them away."
        )


def _is_own(name: str) -> bool:
    # above 2 GiB the weights of an ONNX file lie beside it, under its name with a suffix
    return name in (*FILES, OUTPUTS) or name.startswith(f"{ONNX}.")


def _move_into_place(draft: Path, target: Path, old: Path) -> None:
    """Moves a finished artifact into place by two renames; if the second one fails, the first is undone."""
    _check_replaceable(target)
    if not target.exists():
        os.rename(draft, target)
        return
    os.rename(target, old)
    try:
        os.rename(draft, target)
    except OSError:
        os.rename(old, target)
        raise


def _write(plan: Plan, module: fx.GraphModule, report: Report, export: Export | None, draft: Path) -> None:
    (draft / PLAN).write_text(plan.to_json(), encoding="utf-8")
    aliases = write_weights(module, draft / WEIGHTS)
    shutil.copymode(draft / PLAN, draft / WEIGHTS)  # safetensors makes a file that only its owner can read
    exported = None if export is None else export(draft / ONNX)
    if exported is None:
        write_outputs(_outputs(module, _reference_inputs(load_plan(draft / PLAN))), draft / OUTPUTS)
    (draft / REPORT).write_text(_report_json(report, exported), encoding="utf-8")
    (draft / REPORT_TEXT).write_text(f"{report}\n", encoding="utf-8")
    manifest = Manifest(
        model=plan.model,
        libraries={"graphprune": __version__, "torch": str(torch.__version__)},
        files={path.name: StoredFile.of(path) for path in sorted(draft.iterdir())},
        aliases=aliases,
        call=None if exported is None else _call_form(module, plan.example, exported),
    )
    manifest.write(draft)


def _report_json(report: Report, exported: ExportResult | None) -> str:
    """The report with what was measured on the ONNX file, without the file's path, which means nothing to a reader."""
    onnx = None
    if exported is not None:
        onnx = {name: value for name, value in exported.to_dict().items() if name != "path"}
    return json.dumps(_finite(report.to_dict() | {"onnx": onnx}), indent=1, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    """Returns the content with None (null in JSON) for infinities and NaN, which JSON has no numbers for."""
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _call_form(module: fx.GraphModule, example: Example, exported: ExportResult) -> CallForm:
    """How the module is called, and what it returns."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    with isolated_in_eval_mode(module):
        outputs = run_torch(module, on_device_of(module, example))
    return CallForm(
        tuple(parameter.name for parameter in parameters if parameter.kind in positional),
        exported.input_names,
        exported.output_names,
        encode_outputs(outputs),
    )


def _reference_inputs(plan: Plan) -> Example:
    """Draws inputs on the CPU; saving and loading draw the same ones."""
    return plan.example.fresh(plan.example.batch_size, torch.Generator().manual_seed(0))


def _outputs(module: fx.GraphModule, example: Example) -> list[Tensor]:
    with isolated_in_eval_mode(module), torch.no_grad():
        return tensor_leaves(run_torch(module, on_device_of(module, example)))


def _check_same_function(
    module: fx.GraphModule, example: Example, expected: list[Tensor], plan: Plan, source: str, given: str
) -> None:
    """Compares a loaded module with the stored program or outputs: weights can fit a model that computes otherwise."""
    found = _outputs(module, example)
    differences = [_difference(*pair) for pair in zip(expected, found, strict=False)]
    if len(expected) != len(found) or any(differences):
        raise ArtifactError(
            f"the model does not compute what the artifact's {source} computes: "
            f"{next(filter(None, differences), 'it has another number of outputs')}. The artifact was made from "
            f"{plan.model}, this is a {given}; build it with the arguments of the model that was compiled."
        )


def _difference(expected: Tensor, found: Tensor) -> str:
    """Says how two outputs differ; empty where rounding explains the difference."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        forms = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (expected, found)]
        return f"expected an output of {forms[0]}, got {forms[1]}"
    if not expected.is_floating_point():
        return ""  # rounding may flip an integer, such as the index of the largest value
    want, have = expected.double(), found.cpu().double()
    finite = want.isfinite() & have.isfinite()
    if not bool(finite.any()):
        return ""
    share = _TOLERANCES.get(expected.dtype, RELATIVE_TOLERANCE)
    scale = float(want[finite].abs().max())
    error = float((want - have)[finite].abs().max())
    return f"an output differs by {error:.3g} at scale {scale:.3g}" if error > _SLACK * share * scale else ""
