"""The command ``graphprune``: puts the subcommands together, one file each."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

import graphprune
from graphprune.cli import bench, compile, demo, inspect, print, sweep
from graphprune.cli.exit_codes import Commands
from graphprune.deploy import library_versions

_HELP = """Prunes PyTorch models for real, proves it, and exports them.

\b
A MODEL is named
  torchvision:resnet18      a model of torchvision
  timm:resnet50             a model of timm
  paper:lenet5              a network of the SNAP-it paper
  package.module:factory    a class or function of yours, called without arguments;
                            also found in the current directory. It returns an
                            nn.Module, or a pair (nn.Module, example_input).

\b
Start with
  graphprune demo
  graphprune inspect torchvision:resnet18
  graphprune compile torchvision:resnet18 --sparsity 0.5 --out resnet18-half

\b
Exit codes
  0  success
  2  a mistake in the request; the message on stderr says which
  1  a bug in graphprune
"""

app = typer.Typer(
    name="graphprune", help=_HELP, cls=Commands, rich_markup_mode=None, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip

for _module in (demo, compile, inspect, print, bench, sweep):
    app.command(_module.NAME, help=_module.HELP, short_help=_module.SUMMARY)(_module.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        versions = {"graphprune": graphprune.__version__} | library_versions()
        typer.echo(", ".join(f"{name} {version}" for name, version in versions.items()))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Options of the command itself; the help is above."""


def main() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # the rules of a table are not in every encoding
    app(prog_name="graphprune")
