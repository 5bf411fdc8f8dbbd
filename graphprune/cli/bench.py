"""``graphprune bench``: dense against compact in onnxruntime, measured in turns."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import graphprune
from graphprune.cli import options
from graphprune.cli.model_names import NamedModel, build_model
from graphprune.cli.progress import Phases
from graphprune.deploy import export_onnx, onnx_feeds, time_interleaved
from graphprune.deploy.signature import Feeds, feed, tensor_leaves
from graphprune.errors import ArtifactError, OptionError
from graphprune.plan.plan import load_plan
from graphprune.program.example import Example
from graphprune.saving.artifact import ONNX, PLAN
from graphprune.saving.manifest import Manifest

NAME, SUMMARY = "bench", "Time dense against compact in onnxruntime."
HELP = """Prunes MODEL, exports it before and after, and times both in onnxruntime, in turns.

MODEL may also be a directory that `graphprune compile --out` wrote: its ONNX file is timed then, against the model that
--dense names where it is given. Latencies depend on the machine; the output says what ran where.

\b
Examples:
  graphprune bench torchvision:resnet18 --sparsity 0.5 --threads 2
  graphprune bench paper:resnet18 --macs 0.8 --batch 64 --repeats 50
  graphprune bench resnet18-half --dense torchvision:resnet18
"""


@dataclass(frozen=True)
class _Contest:
    """ONNX files by name, the baseline first, and what they are run on."""

    files: dict[str, Path]
    feeds: Feeds


def command(
    model: options.Model,
    sparsity: options.Sparsity = None,
    params: options.Params = None,
    macs: options.Macs = None,
    input_shape: options.InputShape = None,
    weights: options.Weights = None,
    protect: options.Protect = None,
    align: options.Align = None,
    seed: options.Seed = 0,
    dense: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that a saved directory was made from.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Samples in a run. Default: those of the example input.")
    ] = None,
    provider: options.Provider = "auto",
    threads: options.Threads = 1,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Measurements of each file.")] = 30,
) -> None:
    """Times the dense and the compact network; by default, half of the channels are removed."""
    saved = Path(model).is_dir()
    pruning = {"sparsity": sparsity, "params": params, "macs": macs, "protect": protect, "align": align}
    _check_options(saved, dense, {**pruning, "input-shape": input_shape, "weights": weights})
    with tempfile.TemporaryDirectory() as scratch, Phases() as phases:
        if saved:
            contest = _with_saved(Path(model), dense, batch, seed, Path(scratch))
        else:
            named = build_model(model, input_shape, weights, seed)
            compiled = graphprune.compile(
                named.module, named.example, budget=options.budget(sparsity, params, macs),
                protect=tuple(protect or ()), align=options.multiple(align), seed=seed, progress=phases.rounds,
            )  # fmt: skip
            contest = _with_compiled(named, compiled, batch, Path(scratch), phases)
        phases("time", 0, repeats)
        times = time_interleaved(
            contest.files, contest.feeds, provider=provider, threads=threads, repeats=repeats,
            on_progress=phases.of("time"),
        )  # fmt: skip
    typer.echo(str(times))


def _check_options(saved: bool, dense: str | None, pruning: dict[str, Any]) -> None:
    if not saved and dense is not None:
        raise OptionError("--dense goes with a saved directory; a model that is pruned here is its own baseline")
    given = [f"--{name}" for name, value in pruning.items() if value is not None]
    if saved and given:
        raise OptionError(f"{', '.join(given)}: a saved directory is timed as it is; name a model to prune one")


def _with_compiled(
    named: NamedModel, compiled: graphprune.Compiled, batch: int | None, scratch: Path, phases: Phases
) -> _Contest:
    """Exports the model before and after pruning."""
    phases("export", 0, 1)
    example = Example.of(named.example)
    files = {"dense": scratch / "dense.onnx", "compact": scratch / "compact.onnx"}
    export_onnx(named.module, example.args, example.kwargs, files["dense"])
    compiled.export_onnx(files["compact"])
    return _Contest(files, onnx_feeds(named.module, example.resized(batch or example.batch_size)))


def _with_saved(directory: Path, dense: str | None, batch: int | None, seed: int, scratch: Path) -> _Contest:
    """Checks the ONNX file of an artifact, and exports the dense model if one is named."""
    manifest = Manifest.read(directory)
    manifest.check_files(directory)
    if manifest.call is None:
        raise ArtifactError(f"{directory} was saved without an ONNX file, there is nothing to time; save it with one")
    plan = load_plan(directory / PLAN).example
    example = plan.fresh(batch or plan.batch_size, torch.Generator().manual_seed(seed))
    files = {}
    if dense is not None:
        files["dense"] = scratch / "dense.onnx"
        export_onnx(build_model(dense, _shape(example), seed=seed).module, example.args, example.kwargs, files["dense"])
    files["compact"] = directory / ONNX
    return _Contest(files, feed(manifest.call.inputs, tensor_leaves((example.args, example.kwargs))))


def _shape(example: Example) -> str:
    """Shape of the first input as text, for networks that are built to the size of their input."""
    return ",".join(map(str, example.tensors()[0].shape))
