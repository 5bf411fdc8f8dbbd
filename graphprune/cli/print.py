"""``graphprune print``: a program as text, after any pass."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphprune.capture import capture
from graphprune.cli import options
from graphprune.cli.model_names import NamedModel, build_model
from graphprune.errors import OptionError
from graphprune.pass_manager.printer import print_program
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.pruner import Pruner
from graphprune.request.settings import granularity_of

NAME, SUMMARY = "print", "Print the program as text, after any pass."
HELP = """Prints MODEL as the compiler sees it: one node per line, then the groups of channels that go together.

Without --sparsity only the passes of the analysis run; with it, one round of pruning too. The text is the same each
time.

\b
Examples:
  graphprune print paper:lenet5
  graphprune print torchvision:resnet18 --after capture
  graphprune print paper:lenet5 --after insert-gates
  graphprune print paper:lenet5 --sparsity 0.5 --after prune-channels
"""

CAPTURE, TRACE, GATES = "capture", "trace", "insert-gates"


def _names() -> list[str]:
    """Where printing may stop."""
    return [CAPTURE, *sorted((TRACE, *options.pass_names()))]


def command(
    model: options.Model,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="PASS",
            help=f"Where to stop: {', '.join(_names())}. Default: the last pass that runs.",
        ),
    ] = None,
    sparsity: options.Sparsity = None,
    input_shape: options.InputShape = None,
    weights: options.Weights = None,
    protect: options.Protect = None,
    granularity: options.Granularity = "channel",
    criterion: options.Criterion = "elasticity",
    seed: options.Seed = 0,
) -> None:
    """Prints the program after the pass, as it was when that pass ran for the last time."""
    if after is not None:
        options.check_pass("--after", after, _names())
    _check_round(sparsity, granularity, criterion)
    named = build_model(model, input_shape, weights, seed)
    program = capture(named.module, named.example, tuple(protect or ()))
    if after in (CAPTURE, TRACE):
        typer.echo(print_program(program), nl=False)
        return
    texts: list[str] = []
    runner = Runner(print_after=frozenset([after] if after else options.pass_names()), emit=texts.append)
    if sparsity is None:
        gates = pipelines.gating() if after == GATES else ()
        runner.run((*pipelines.analysis(), *gates), program)
    else:
        _one_round(
            named, runner, sparsity=sparsity, protect=program.protect, granularity=granularity, criterion=criterion,
            seed=seed,
        )  # fmt: skip
    if not texts:
        part = "part of a round; give --sparsity, such as --sparsity 0.5"
        raise OptionError(f"--after: the pass '{after}' is {part if sparsity is None else 'no part of this round'}")
    typer.echo(texts[-1], nl=False)


def _check_round(sparsity: float | None, granularity: str, criterion: str) -> None:
    """Refuses options of a round where no round runs."""
    granularity_of(granularity)
    if sparsity is None and (granularity != "channel" or criterion != "elasticity"):
        raise OptionError("--granularity and --criterion are those of a round; give --sparsity, such as --sparsity 0.5")


def _one_round(named: NamedModel, runner: Runner, **arguments: Any) -> None:
    Pruner(named.module, named.example, schedule="one-shot", runner=runner, **arguments).step()
