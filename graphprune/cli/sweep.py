"""``graphprune sweep``: accuracy against measured latency over a range of budgets, as a table, JSON and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli import options
from graphprune.cli.model_names import build_model, named_object
from graphprune.cli.progress import Phases
from graphprune.cli.tables import show, table
from graphprune.example import Example
from graphprune.latency import Profile
from graphprune.sweep import LATENCIES, Point, Sweep, sweep, top_one

NAME, SUMMARY = "sweep", "Prune to several latencies; accuracy against latency."
HELP = """Prunes MODEL to several latencies from one ranking of its channels, and times all networks in turns.

Beside them stand the dense network and, for each, a uniform one: the same share of channels gone from every group, as
in a narrower network of the same family, with as many multiply-accumulates. With --test it tells accuracies too.

\b
Examples:
  graphprune sweep torchvision:resnet18 --latency 0.3 --latency 0.5 --out resnet18-sweep
  graphprune sweep mypackage:net --weights net.safetensors --data mypackage:train --test mypackage:test
"""

_SHARES = ", ".join(map(str, LATENCIES))


def command(
    model: options.Model,
    latency: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE", help=f"Share of the latency to remove; may be repeated. Default: {_SHARES}."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="package.module:name of batches (inputs, target) that rank the channels."),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The same, a list or data loader that accuracy is measured on."),
    ] = None,
    input_shape: options.InputShape = None,
    weights: options.Weights = None,
    protect: options.Protect = None,
    attention: options.Attention = "heads",
    min_channels: options.MinChannels = "1",
    criterion: options.Criterion = "elasticity",
    provider: options.Provider = "auto",
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write sweep.json and sweep.svg here; the plot needs matplotlib.")
    ] = None,
) -> None:
    """Sweeps and prints a table."""
    options.check_folder(out)
    named = build_model(model, input_shape, weights, seed)
    with Phases(lines=True) as phases:
        result = sweep(
            named.module,
            named.example,
            latency or LATENCIES,
            evaluate=None if test is None else top_one(_batches("--test", test)),
            data=None if data is None else _batches("--data", data),
            target=Profile.here(provider, threads, Example.of(named.example).batch_size),
            protect=tuple(protect or ()),
            attention=attention,
            min_channels=options.floor(min_channels),
            criterion=criterion,
            seed=seed,
            progress=phases,
        )
    show_sweep(result)
    if out is not None:
        typer.echo(f"saved to {result.save(out).parent}")


def _batches(option: str, name: str) -> Any:
    return named_object(name, f"{option} '{name}'")


def show_sweep(result: Sweep) -> None:
    """The table, and below it what was run on."""
    timing = result.timing
    show(f"{result.model}, ranked by {result.criterion}")
    columns = ("", "latency ms", "left", "multiply-accumulates", "parameters", "accuracy")
    show(table(columns, [_row(point) for point in result.points], numbers=columns[1:]))
    for share, why in result.unreachable.items():
        show(f"{100 * share:.4g}% less latency cannot be reached: {why}")
    versions = ", ".join(f"{name} {version}" for name, version in timing.versions.items())
    show(
        f"Medians of {timing.repeats} measurements in turns [10th to 90th percentile], batch {timing.batch_size}, "
        f"{timing.provider}, threads: {timing.threads}. {timing.hardware}; {versions}."
    )


def _row(point: Point) -> tuple[str, ...]:
    latency = point.latency
    return (
        point.name, f"{latency.median_ms:.3f} [{latency.p10_ms:.3f} to {latency.p90_ms:.3f}]",
        f"{point.latency_left:.1%}", f"{point.costs['macs']:,}", f"{point.costs['params']:,}",
        "" if point.accuracy is None else f"{point.accuracy:.2%}",
    )  # fmt: skip
