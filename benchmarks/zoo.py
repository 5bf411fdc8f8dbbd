"""Compiles the paper's networks and torchvision models and records what came out: one JSON line per model and sparsity.

Coverage is the share of output rows (dim 0 of all weights of two dims or more) that belong to a prunable group. It is
given twice where the model does not read some weights in evaluation mode (auxiliary heads): without them, and with them
counted as removed, for the compact module lacks them.

    python benchmarks/zoo.py --out benchmarks/results/zoo.jsonl

Resumes where it stopped: finished rows in the output file are not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import graphprune
from graphprune.compiled import Compiled
from graphprune.deploy import library_versions
from graphprune.networks import NETWORKS, build

TORCHVISION = (
    "resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "densenet121", "shufflenet_v2_x0_5", "googlenet",
    "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip


def jobs() -> list[tuple[str, float]]:
    """Every (model, sparsity)."""
    paper = [(f"paper:{name}", sparsity) for name in NETWORKS for sparsity in (0.5, 0.9)]
    return paper + [(f"torchvision:{name}", 0.5) for name in TORCHVISION]


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The model with random weights, and an example batch of two."""
    kind, _, which = name.partition(":")
    if kind == "paper":
        shape = (1, 28, 28) if which in ("lenet5", "mlp5") else (3, 32, 32)
        return build(which, shape, 10), torch.randn(2, *shape)
    options = {"init_weights": False} if which == "googlenet" else {}
    model: nn.Module = getattr(torchvision.models, which)(weights=None, **options)
    if which == "vit_b_16":  # torchvision zeroes the head, which would leave nothing to score and nothing to compare
        nn.init.normal_(model.get_submodule("heads.head").weight, std=0.02)  # type: ignore[arg-type]
    return model, torch.randn(2, 3, 224, 224)


def coverage(model: nn.Module, compiled: Compiled) -> dict[str, float]:
    """Share of prunable output rows, without and with the weights that evaluation mode does not read."""
    rows = {name: parameter.shape[0] for name, parameter in model.named_parameters() if parameter.dim() >= 2}
    frozen = sum(row.size for row in compiled.report.frozen)
    dropped = sum(rows[name] for name in compiled.report.dropped if name in rows)
    total = sum(rows.values())
    return {"prunable_rows": 1 - frozen / (total - dropped), "prunable_rows_with_dropped": 1 - frozen / total}


def run(name: str, sparsity: float) -> dict[str, Any]:
    """One row."""
    torch.manual_seed(0)
    model, example = make(name)
    started = time.perf_counter()
    compiled = graphprune.compile(model, example, sparsity=sparsity)
    seconds = time.perf_counter() - started
    proofs = [entry.verification for entry in compiled.report.rounds if entry.verification is not None]
    final = compiled.verify()
    row: dict[str, Any] = {
        "model": name,
        "sparsity": sparsity,
        "achieved": compiled.report.achieved,
        "rounds": len(compiled.report.rounds),
        "worst_relative_error": max(proof.relative_error for proof in proofs),
        "final_relative_error": final.relative_error,
        "output_scale": final.scale,
        "requested_minus_achieved_channels": _missed_channels(compiled, sparsity),
        "held_back": [line for entry in compiled.report.rounds for line in entry.bound],
        "captured_by": compiled.report.captured_by,
        "seconds": seconds,
        **coverage(model, compiled),
    }
    with tempfile.TemporaryDirectory() as directory:
        export = compiled.export_onnx(Path(directory) / "compact.onnx")
    return row | {"onnx_relative_error": export.max_rel_error, "onnx_batch": export.batch}


def _missed_channels(compiled: Compiled, sparsity: float) -> float:
    before, after = compiled.report.costs["channels"]
    return before * sparsity - (before - after)


def main() -> None:
    """Runs what is not in the output file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/zoo.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {(row["model"], row["sparsity"]) for row in map(json.loads, lines)}
    for name, sparsity in jobs():
        if (name, sparsity) in done:
            continue
        row = run(name, sparsity) | {"versions": library_versions()}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        error, rows = row["worst_relative_error"], row["prunable_rows"]
        print(f"{name} {sparsity}: error {error:.2g}, prunable {rows:.4f}, {row['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
