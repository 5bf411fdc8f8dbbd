"""Pipelines: the passes of each job, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graphprune.criteria.criterion import Criterion, gating_of
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights import WeightCriterion
from graphprune.latency.model import LatencyModel
from graphprune.pass_manager.protocol import Pass
from graphprune.pass_manager.runner import Runner
from graphprune.passes.build_dependencies import BuildDependencies
from graphprune.passes.drop_dead_nodes import DropDeadNodes
from graphprune.passes.export_onnx import ExportOnnx
from graphprune.passes.fix_channel_sizes import FixChannelSizes
from graphprune.passes.insert_gates import InsertGates
from graphprune.passes.mask_weights import MaskWeights
from graphprune.passes.prune_channels import PruneChannels
from graphprune.passes.recalibrate_norms import RecalibrateNorms
from graphprune.passes.refit_layers import RefitLayers
from graphprune.passes.remove_dead_paths import RemoveDeadPaths
from graphprune.passes.score_channels import ScoreChannels
from graphprune.passes.score_weights import ScoreWeights
from graphprune.passes.select_channels import SelectChannels
from graphprune.passes.select_jointly import SelectJointly
from graphprune.passes.select_weights import SelectWeights
from graphprune.passes.select_widths import SelectWidths
from graphprune.passes.time_onnx import TimeOnnx
from graphprune.passes.trace import Trace
from graphprune.passes.verify_prune import VerifyPrune
from graphprune.program.example import Example
from graphprune.program.program import Attention, Program
from graphprune.repair.samples import Split
from graphprune.request.limits import Limits
from graphprune.selection.goal import Goal


def analysis(choices: Mapping[str, bool] | None = None) -> Sequence[Pass]:
    """Passes before the first round.

    Args:
        choices: See `BuildDependencies`.
    """
    return (DropDeadNodes(), BuildDependencies(choices or {}), FixChannelSizes())


def reanalysis() -> Sequence[Pass]:
    """Passes after a change of shapes."""
    return (BuildDependencies(),)


def scoring(criterion: Criterion, sensitivity: Sensitivity) -> Sequence[Pass]:
    """Passes of the first half of a round; gates are inserted first if the criterion reads them."""
    gating = gating_of(criterion, sensitivity)
    gates = () if gating is None else (InsertGates(gating),)
    return (*gates, ScoreChannels(criterion, sensitivity))


def gating() -> Sequence[Pass]:
    """Passes that insert gates, to show the program with them."""
    return (InsertGates(),)


def scoring_weights(criterion: WeightCriterion, sensitivity: Sensitivity) -> Sequence[Pass]:
    """Passes of the first half of a round that zeroes weights."""
    return (ScoreWeights(criterion, sensitivity),)


def selecting_weights(allowed: int, *, on_paths: bool, verify: bool, seed: int) -> Sequence[Pass]:
    """Passes that choose the weights that stay."""
    removal = (RemoveDeadPaths(None, verify, seed),) if on_paths else ()
    return (SelectWeights(allowed, on_paths), *removal)


def masking(*, resurrect: bool, verify: bool, seed: int) -> Sequence[Pass]:
    """Passes that zero the weights that do not stay."""
    return (MaskWeights(resurrect), *_proof(seed, verify=verify))


def selecting_jointly(allowed: int, limits: Limits, *, on_paths: bool, verify: bool, seed: int) -> Sequence[Pass]:
    """Passes that choose the channels and weights that stay."""
    removal = (RemoveDeadPaths(limits, verify, seed),) if on_paths else ()
    return (SelectJointly(allowed, limits, on_paths), *removal)


def pruning_jointly(*, resurrect: bool, verify: bool, seed: int) -> Sequence[Pass]:
    """Passes that remove the channels and zero the weights that do not stay."""
    return (MaskWeights(resurrect), PruneChannels(), *_proof(seed, verify=verify))


def selecting_widths(
    goal: Goal, limits: Limits, model: LatencyModel, limit_ms: float, *, at_least: bool = True
) -> Sequence[Pass]:
    """Passes that choose the widths that save the most latency for the importance they lose."""
    return (SelectWidths(goal, limits, model, limit_ms, at_least),)


def selecting(goal: Goal, limits: Limits) -> Sequence[Pass]:
    """Passes that choose the channels that stay."""
    return (SelectChannels(goal, limits),)


def pruning(*, verify: bool, seed: int) -> Sequence[Pass]:
    """Passes that remove the channels that do not stay."""
    return (PruneChannels(), *_proof(seed, verify=verify))


def _proof(seed: int, *, verify: bool) -> Sequence[Pass]:
    return (VerifyPrune(seed),) if verify else ()


def refitting(dense: Program, samples: Split, seed: int) -> Sequence[Pass]:
    """Passes that repair a program after its last prune."""
    return (RefitLayers(dense, samples, seed),)


def recalibrating(dense: Program, samples: Split) -> Sequence[Pass]:
    """Passes that only set the statistics of batch norms anew."""
    return (RecalibrateNorms(dense, samples),)


def exporting(path: Path, precision: str = "float32", calibration: Sequence[Example] = ()) -> Sequence[Pass]:
    """Passes that write a program as an ONNX file."""
    return (ExportOnnx(path, precision, calibration),)


def timing(dense: Path, batch: int, provider: str, threads: int, repeats: int) -> Sequence[Pass]:
    """Passes that time an exported program beside the dense one."""
    return (TimeOnnx(dense, batch, provider, threads, repeats),)


def analysed(
    model: nn.Module, example_input: Any, protect: tuple[str, ...] = (), attention: Attention = "heads", *,
    verify: bool = True, runner: Runner | None = None,
) -> Program:  # fmt: skip
    """Captures and analyses a model; see `Trace` for the options."""
    runner = runner or Runner()
    return runner.run(analysis(), runner.start(Trace(example_input, protect, attention, verify), model))
