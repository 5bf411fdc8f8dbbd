"""``graphprune sweep``: accuracy against measured latency over a range of budgets, as a table, JSON and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli import options
from graphprune.cli.model_names import build_model
from graphprune.cli.progress import Phases
from graphprune.latency import Profile
from graphprune.program.example import Example
from graphprune.sweep.accuracy import top_one
from graphprune.sweep.run import LATENCIES, sweep

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
        typer.Option(metavar="SHARE", help=f"Share of the latency to remove; may be repeated. Default: {_SHARES}."),
    ] = None,
    data: options.Data = None,
    loss: options.Loss = None,
    test: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The same as --data, a list or data loader that accuracy is measured on."),
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
    """Runs the sweep and prints its table."""
    options.check_folder(out)
    named = build_model(model, input_shape, weights, seed)
    with Phases(lines=True) as phases:
        result = sweep(
            named.module,
            named.example,
            latency or LATENCIES,
            evaluate=None if test is None else top_one(options.batches("--test", test)),
            data=options.batches("--data", data),
            loss=options.function("--loss", loss),
            target=Profile.here(provider, threads, Example.of(named.example).batch_size),
            protect=tuple(protect or ()),
            attention=attention,
            min_channels=options.floor(min_channels),
            criterion=criterion,
            seed=seed,
            progress=phases,
        )
    typer.echo(str(result))
    if out is not None:
        typer.echo(f"saved to {result.save(out).parent}")
