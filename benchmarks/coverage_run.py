"""One model of the coverage study: compiled at every sparsity and number of rounds, trained a step, exported."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import graphprune
from benchmarks.models import make
from graphprune.compiled import Compiled
from graphprune.coupling.protection import output_dim
from graphprune.errors import UserError

SPARSITIES = (0.3, 0.5, 0.8)
ROUNDS = (1, 3)


@dataclass(frozen=True)
class Grid:
    """Which compilations are made of a model, and which of the results are exported as well."""

    sparsities: Sequence[float] = SPARSITIES
    rounds: Sequence[int] = ROUNDS
    export_sparsities: Sequence[float] = SPARSITIES
    export_rounds: Sequence[int] = ROUNDS

    def exports(self, sparsity: float, rounds: int) -> bool:
        """Whether the result of a compilation is exported."""
        return sparsity in self.export_sparsities and rounds in self.export_rounds


def study(name: str, grid: Grid) -> dict[str, Any]:
    """Returns the row of a model: passed, refused with the reason, or failed with the error."""
    started = time.perf_counter()
    row: dict[str, Any] = {"model": name, "outcome": "pass", "reason": "", "compilations": []}
    try:
        model, example = make(name)
        for sparsity, rounds in product(grid.sparsities, grid.rounds):
            row |= compiled_row(row, model, example, sparsity, rounds, export=grid.exports(sparsity, rounds))
    except UserError as error:
        row |= {"outcome": "refused", "reason": str(error)}
    except Exception as error:  # whatever goes wrong is the result of the study
        row |= {"outcome": "fail", "reason": f"{type(error).__name__}: {error}"}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row | {"seconds": time.perf_counter() - started, "peak_mib": peak_mib}


def compiled_row(
    row: dict[str, Any], model: nn.Module, example: Any, sparsity: float, rounds: int, *, export: bool
) -> dict[str, Any]:
    """Compiles a model once more and returns the entries that the row gets from it; the model is not changed."""
    started = time.perf_counter()
    compiled = graphprune.compile(
        model, example, sparsity=sparsity, schedule=equal_steps(rounds), loss=distance_from_one
    )
    seconds = time.perf_counter() - started
    proofs = [entry.verification.relative_error for entry in compiled.report.rounds if entry.verification is not None]
    entry = {
        "sparsity": sparsity,
        "rounds": rounds,
        "removed": compiled.report.achieved["channels"],
        "relative_error": max([*proofs, compiled.verify().relative_error]),
        "seconds": seconds,
    }
    train_one_step(compiled.module, example)
    if export:
        entry["onnx_relative_error"] = onnx_error(compiled)
    found = {"captured_by": compiled.report.captured_by, **prunable_rows(model, compiled)}
    return found | {"compilations": [*row["compilations"], entry]}


def equal_steps(rounds: int) -> Callable[[float], list[float]]:
    """Returns a schedule of `rounds` equal steps."""
    return lambda sparsity: [sparsity * step / rounds for step in range(1, rounds)] + [sparsity]


def distance_from_one(output: Any, target: Any) -> Tensor:
    """Returns the mean squared distance of all outputs from 1: a loss for every model, even with a head of zeros."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.stack([(leaf.float() - 1).square().mean() for leaf in leaves]).mean()


def train_one_step(module: nn.Module, example: Any) -> None:
    """Trains one step by SGD in training mode.

    Raises:
        AssertionError: no parameter got a gradient, or one is not finite.
    """
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    distance_from_one(module(**example) if isinstance(example, dict) else module(example), None).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients, "the compact module got no gradient"
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients), "a gradient is not finite"
    optimizer.step()
    module.eval()


def onnx_error(compiled: Compiled) -> float:
    """Returns the largest difference between onnxruntime and torch, relative to the output's scale."""
    with tempfile.TemporaryDirectory() as directory:
        return compiled.export_onnx(Path(directory) / "compact.onnx").max_rel_error


def prunable_rows(model: nn.Module, compiled: Compiled) -> dict[str, float]:
    """Returns the share of output rows that belong to a prunable group.

    Output rows are the output channels of weights of two dims or more. The first share leaves out the weights that
    evaluation mode does not read (auxiliary heads); the second counts them as removed.
    """
    rows = {
        name: parameter.shape[output_dim(model.get_submodule(name.rpartition(".")[0]), parameter.dim())]
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2
    }
    frozen = sum(row.size for row in compiled.report.frozen)
    dropped = sum(rows[name] for name in compiled.report.dropped if name in rows)
    total = sum(rows.values())
    return {"prunable_rows": 1 - frozen / (total - dropped), "prunable_rows_with_dropped": 1 - frozen / total}


def main() -> None:
    """Studies one model and prints the row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    for field in fields(Grid):
        kind = float if field.name.endswith("sparsities") else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, nargs="+", default=field.default)
    parser.add_argument("--memory-gib", type=float, default=10.0)
    options = parser.parse_args()
    limit = int(options.memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    grid = Grid(**{field.name: getattr(options, field.name) for field in fields(Grid)})
    print(json.dumps(study(options.model, grid)), flush=True)


if __name__ == "__main__":
    main()
