"""Removes the same channels by graphprune and by torch-pruning: the networks have to be the same.

The channels to go are drawn at random in each group of graphprune and handed to torch-pruning as rows of the layer that
makes them; what else has to go each tool finds for itself. Every parameter and buffer is compared by shape and value
(but for those that are read in training only, which graphprune drops), then the outputs. One JSON line per model, with
the error where torch-pruning fails or does not end.

    python -m benchmarks.against_torch_pruning --models resnet18 densenet121
    python -m benchmarks.against_torch_pruning --models all --out benchmarks/results/against_torch_pruning.jsonl
"""

from __future__ import annotations

import argparse
import copy
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.compile_time import all_models, build, time_limit
from benchmarks.rows import read, record
from graphprune.capture import capture
from graphprune.criteria.group_members import member_indices
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.ops.convolution import WHOLE_GROUPS
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.program import Program
from graphprune.rewrite.compact import compact_module

Rows = dict[str, Tensor]
"""Indices of the rows to remove, by name of the layer that makes them."""


@dataclass(frozen=True)
class Difference:
    """Differences between the two pruned networks.

    Attributes:
        channels: Number of channels that were removed.
        of: Number of all prunable channels.
        shapes: Parameters and buffers whose shapes differ.
        values: Parameters and buffers of equal shape whose values differ.
        relative_error: Largest difference of the outputs over their largest value; None where shapes differ.
    """

    channels: int
    of: int
    shapes: tuple[str, ...]
    values: tuple[str, ...]
    relative_error: float | None


def compare(model: nn.Module, example: Tensor, seed: int = 0) -> Difference:
    """Prunes a copy of a model by both tools and compares the results.

    Raises:
        Exception: whatever torch-pruning raises on models that it does not cover.
    """
    model = _distinguishable(copy.deepcopy(model)).eval()
    program = _analysed(capture(model, example))
    dependencies = program[Dependencies]
    keep = _random_keep(dependencies, seed)
    ours: nn.Module = compact_module(program, KeepSet.of(dependencies, keep)).eval()
    theirs = pruned_by_torch_pruning(model, example, _rows_to_remove(model, dependencies, keep))
    first, second = _tensors(ours), _tensors(theirs)
    shapes = [name for name, tensor in first.items() if tensor.shape != second[name].shape]
    values = [name for name in first if name not in shapes and not torch.equal(first[name], second[name])]
    error = None if shapes else _output_error(ours, theirs, example)
    return Difference(int((~keep).sum()), len(keep), tuple(shapes), tuple(values), error)


def _analysed(captured: Program) -> Program:
    """Analyses a program so that every group of a convolution loses the same channels, as in torch-pruning.

    Torch-pruning never removes whole groups.
    """
    program = Runner().run(pipelines.analysis(), captured)
    choices = program[Dependencies].choices
    turned = {choice: False for choice in choices if choice.endswith(WHOLE_GROUPS)}
    return Runner().run(pipelines.analysis(choices | turned), captured) if turned else program


def pruned_by_torch_pruning(model: nn.Module, example: Tensor, rows: Rows) -> nn.Module:
    """Returns a copy of the model without the given rows and without everything that torch-pruning ties to them."""
    model = copy.deepcopy(model)
    graph = tp.DependencyGraph().build_dependency(model, example)
    for name, removed in rows.items():
        layer = model.get_submodule(name)
        prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        graph.get_pruning_group(layer, prune, removed.tolist()).prune()
    return model.eval()


@torch.no_grad()
def _distinguishable(model: nn.Module) -> nn.Module:
    """Fills vectors with random values, because with fresh normalisations (ones, zeros) any choice looks right."""
    generator = torch.Generator().manual_seed(0)
    for tensor in _tensors(model).values():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model


def _random_keep(dependencies: Dependencies, seed: int) -> Tensor:
    """Keeps about half of the channels of each group, and at least one."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(dependencies.channels, generator=generator) < 0.5
    for group in dependencies.groups:
        keep[group.start] = True
    return keep


def _rows_to_remove(model: nn.Module, dependencies: Dependencies, keep: Tensor) -> Rows:
    """Returns the rows to remove from the first layer of each group; a layer may make channels of several groups."""
    found: dict[str, list[Tensor]] = {}
    for group, indices in zip(dependencies.groups, member_indices(dependencies), strict=True):
        name = next(name for name, dim in indices if dim == 0 and _makes_channels(model, name))
        removed = indices[name, 0][~keep[group.start : group.stop]]
        found.setdefault(name.rpartition(".")[0], []).append(removed.flatten())
    return {name: torch.cat(rows).sort().values for name, rows in found.items()}


def _makes_channels(model: nn.Module, name: str) -> bool:
    layer = model.get_submodule(name.rpartition(".")[0])
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels
    return isinstance(layer, (nn.Conv2d, nn.Linear)) and not depthwise


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns floating-point parameters and buffers; pruning does not concern the counters of BatchNorm."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach() for name, tensor in named.items() if tensor.is_floating_point()}


@torch.no_grad()
def _output_error(ours: nn.Module, theirs: nn.Module, example: Tensor) -> float:
    fresh = torch.randn(example.shape, generator=torch.Generator().manual_seed(1))
    first, second = ours(fresh), theirs(fresh)
    return float((first - second).abs().max() / second.abs().max())


def main() -> None:
    """Compares the models that the results file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18"], help="names, or 'all'")
    parser.add_argument("--side", type=int, default=64, help="height and width of the images")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a model")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    done = {row["model"] for row in read(options.out)}
    for name in all_models() if options.models == ["all"] else options.models:
        if name not in done:
            record(options.out, _row(name, options.side, options.limit))


def _row(name: str, side: int, limit_s: float) -> dict[str, Any]:
    versions = {"torch": torch.__version__} | {name: version(name) for name in ("torch-pruning", "torchvision")}
    try:
        with time_limit(limit_s):
            found = asdict(compare(build(name), torch.randn(1, 3, side, side)))
            return {"model": name, "side": side, "versions": versions} | found
    except Exception as error:  # torch-pruning may fail in any way; that is a result
        return {"model": name, "side": side, "versions": versions, "error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main()
