"""``graphprune compile``: prunes a named model, prints the report, saves the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import graphprune
from graphprune.cli import options
from graphprune.cli.model_names import build_model
from graphprune.cli.progress import Phases
from graphprune.cli.tables import show, table
from graphprune.errors import OptionError
from graphprune.latency import Profile
from graphprune.pass_manager.runner import Runner
from graphprune.program.example import Example
from graphprune.request.settings import counted_by, granularity_of

NAME, SUMMARY = "compile", "Prune a model, print the report, save the result."
HELP = """Removes the least important channels of MODEL, or zeroes its least important weights, proves that the rest
computes the same, and prints a report.

They are ranked on --data; without it on the example input, a random one, against the model's own prediction.

\b
Examples:
  graphprune compile torchvision:resnet18 --sparsity 0.5 --out resnet18-half
  graphprune compile timm:convnext_tiny --macs 0.4 --protect 'stages.3.*' --align 8
  graphprune compile torchvision:mobilenet_v2 --latency 0.5 --threads 1
  graphprune compile mypackage.models:make_net --input-shape 1,3,64,64 --weights net.safetensors
  graphprune compile mypackage:net --data mypackage:batches --loss mypackage:loss
  graphprune compile paper:lenet5 --sparsity 0.9 --granularity mixed
  graphprune compile paper:lenet5 --sparsity 0.99 --granularity weight --dead-paths remove
  graphprune compile paper:lenet5 --print-after prune-channels --time-passes
"""

Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Save plan, weights, ONNX file and report here; `graphprune.load` reads them."),
]
Onnx = Annotated[
    bool, typer.Option("--onnx/--no-onnx", help="Whether the ONNX file is saved, which not every network can have.")
]
DumpDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write the program as text here after each pass of each round.")
]
PrintAfter = Annotated[
    list[str] | None,
    typer.Option(metavar="PASS", help=f"Print the program after this pass: {', '.join(options.pass_names())}."),
]


def command(
    model: options.Model,
    sparsity: options.Sparsity = None,
    params: options.Params = None,
    macs: options.Macs = None,
    latency: options.Latency = None,
    latency_ms: options.LatencyMs = None,
    input_shape: options.InputShape = None,
    weights: options.Weights = None,
    data: options.Data = None,
    loss: options.Loss = None,
    protect: options.Protect = None,
    attention: options.Attention = "heads",
    min_channels: options.MinChannels = "1",
    align: options.Align = None,
    granularity: options.Granularity = "channel",
    resurrect: options.Resurrect = False,
    dead_paths: options.DeadPaths = "keep",
    criterion: options.Criterion = "elasticity",
    schedule: options.Schedule = "halving",
    repair: options.Repair = None,
    seed: options.Seed = 0,
    out: Out = None,
    onnx: Onnx = True,
    dump_dir: DumpDir = None,
    print_after: PrintAfter = None,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Print the time spent in each pass.")] = False,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove each round.")] = True,
    strict: options.Strict = False,
    provider: options.Provider = "auto",
    threads: options.Threads = 1,
) -> None:
    """Compiles the model; by default, half of the channels or weights are removed."""
    options.check_out(out)
    if out is None and not onnx:
        raise OptionError("--no-onnx says what is not saved; it goes with --out")
    for name in print_after or ():
        options.check_pass("--print-after", name, options.pass_names())
    counted = counted_by(granularity_of(granularity))
    budget = options.budget(sparsity, params, macs, latency, latency_ms, counted)
    timed = budget.is_timed or align == "auto"
    runner = Runner(dump_dir, frozenset(print_after or ()), lambda text: typer.echo(text))
    named = build_model(model, input_shape, weights, seed)
    with Phases(bars=not print_after) as phases:
        compiled = graphprune.compile(
            named.module,
            named.example,
            budget=budget,
            data=options.batches("--data", data),
            loss=options.function("--loss", loss),
            protect=tuple(protect or ()),
            attention=attention,
            min_channels=options.floor(min_channels),
            align=options.multiple(align),
            granularity=granularity,
            resurrect=resurrect,
            dead_paths=dead_paths,
            criterion=criterion,
            schedule=schedule,
            repair=repair,
            target=Profile.here(provider, threads, Example.of(named.example).batch_size) if timed else None,
            verify=verify,
            strict=strict,
            seed=seed,
            progress=phases.rounds,
            runner=runner,
        )
        if out is not None:
            phases("save", 0, 1)
            compiled.save(out, onnx=onnx)
    typer.echo(str(compiled.report))
    if time_passes:
        print_times(runner)
    if out is not None:
        typer.echo(f"saved to {out}")


def print_times(runner: Runner) -> None:
    """Prints a table of the time spent in each pass, the slowest first."""
    total = sum(runner.seconds.values())
    rows = [
        (name, f"{seconds:.3f}", f"{seconds / total:.0%}")
        for name, seconds in sorted(runner.seconds.items(), key=lambda entry: -entry[1])
    ]
    columns = ("pass", "seconds", "share")
    show(table(columns, [*rows, ("total", f"{total:.3f}", "")], numbers=columns[1:]))
