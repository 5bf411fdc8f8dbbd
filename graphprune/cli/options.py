"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli.model_names import attribute, named_object
from graphprune.costs.measures import Measure
from graphprune.criteria import CRITERIA
from graphprune.criteria.weights import WEIGHT_CRITERIA
from graphprune.errors import ArtifactError, OptionError
from graphprune.pass_manager.protocol import Pass
from graphprune.passes import pipelines
from graphprune.request.budget import Budget
from graphprune.request.schedule import SCHEDULES
from graphprune.saving.manifest import is_artifact

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model; see `graphprune --help`.")]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="N,C,H,W",
        help="Sizes of the example input, the batch first. Default: what the source of the model says.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The model's weights, a safetensors file. Default: random ones, from --seed."),
]
Sparsity = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Share of the prunable channels, or of the weights, to remove, in [0, 1)."),
]
Params = Annotated[float | None, typer.Option(metavar="SHARE", help="Share of the parameters to remove, in [0, 1).")]
Macs = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of the multiply-accumulates to remove, in [0, 1).")
]
Latency = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of the measured latency to remove, in [0, 1).")
]
LatencyMs = Annotated[
    float | None, typer.Option(metavar="MS", help="Cap on the measured latency of one run, in milliseconds.")
]
Protect = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Modules or parameters that stay, by shell wildcards; may be repeated."),
]
Attention = Annotated[
    str,
    typer.Option(metavar="heads|head_dim", help="What goes of attention: whole heads, or as many indices of each."),
]
Meta = Annotated[
    bool,
    typer.Option("--meta", help="Build the model without memory for its weights, where it is too large to be held."),
]
MinChannels = Annotated[
    str, typer.Option(metavar="N|safe", help="Channels that stay in each group; 'safe' is two, or 2 % of them.")
]
Align = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Widths that shrink stay multiples of this; 'auto' for those that suit this machine. Default: 1.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="package.module:name of batches (inputs, target) to rank on. Default: the example input, a random one.",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="package.module:name of a function of output and target. Default: cross-entropy."
    ),
]
Criterion = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"What ranks the channels: {', '.join(CRITERIA.names())}; or the weights: "
        f"{', '.join(WEIGHT_CRITERIA.names())}.",
    ),
]
Granularity = Annotated[
    str,
    typer.Option(metavar="NAME", help="What goes: channel, weight (weights become zero), or mixed (both)."),
]
DeadPaths = Annotated[
    str,
    typer.Option(
        metavar="keep|remove",
        help="Of weights and channels that are left but on no path from input to output; where weights go.",
    ),
]
Resurrect = Annotated[
    bool, typer.Option("--resurrect", help="Let weights that became zero come back in later rounds; with weight.")
]
Schedule = Annotated[
    str, typer.Option(metavar="NAME", help=f"How the sparsity rises over the rounds: {', '.join(SCHEDULES.names())}.")
]
Repair = Annotated[
    str | None,
    typer.Option(
        metavar="least-squares", help="Fit the weights that are left to the dense model, on --data, without training."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail where something is frozen for want of an op rule or of a rewriting.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything random.")]
Provider = Annotated[
    str, typer.Option(metavar="NAME", help="Where onnxruntime runs: auto (CUDA where there is a device), cpu or cuda.")
]
Threads = Annotated[int, typer.Option(metavar="N", help="Threads within an operator of onnxruntime.")]


def budget(
    sparsity: float | None, params: float | None, macs: float | None, latency: float | None = None,
    latency_ms: float | None = None, counted: Measure = "channels",
) -> Budget:  # fmt: skip
    """The budget of the given options; by default half of what ``counted`` names is removed."""
    asked = {counted: sparsity, "params": params, "macs": macs, "latency": latency, "latency_ms": latency_ms}
    given = {name: value for name, value in asked.items() if value is not None}
    return Budget(**given) if given else Budget(**{counted: 0.5})


def batches(option: str, name: str | None) -> Any:
    """Finds data for `graphprune.compile` by its name; None without a name."""
    if name is None:
        return None
    what = f"{option} '{name}'"
    found = named_object(name, what)
    function = attribute(name, what)
    return _Again(function) if isinstance(found, Iterator) and function is not found else found


@dataclass(frozen=True)
class _Again:
    """Calls a generator function anew for each iteration, because every round goes through the data."""

    function: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.function()


def function(option: str, name: str | None) -> Any:
    """Finds a function by its name; a class such as `torch.nn.CrossEntropyLoss` is called first. None without a name.

    Raises:
        OptionError: there is no function of this name.
    """
    if name is None:
        return None
    what = f"{option} '{name}'"
    found = attribute(name, what)
    if isinstance(found, type):
        found = named_object(name, what)
    if not callable(found):
        raise OptionError(f"{what}: expected a function, got {type(found).__name__}")
    return found


def multiple(align: str | None) -> int | str:
    """Turns ``--align`` into the value that `graphprune.compile` takes."""
    return 1 if align is None else _number_or_name(align)


def _number_or_name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def floor(min_channels: str) -> int | str:
    """Turns ``--min-channels`` into the value that `graphprune.compile` takes."""
    return _number_or_name(min_channels)


def pass_names() -> list[str]:
    """Names of all passes that a compilation runs, sorted."""
    found = (entry for entry in vars(pipelines).values() if isinstance(entry, type) and issubclass(entry, Pass))
    # the name depends on the class alone, so no options have to be made up for it
    names = {object.__new__(entry).name for entry in found if entry is not Pass}
    return sorted(names - _AFTERWARDS)


_AFTERWARDS = {"export-onnx", "recalibrate-norms", "time-onnx"}
"""Passes that run only on the result of a compilation."""


def check_pass(option: str, name: str, known: Iterable[str]) -> None:
    """Refuses the name of a pass that does not exist.

    Raises:
        OptionError: the name is unknown; the message lists the known ones.
    """
    if name not in known:
        raise OptionError(f"{option}: there is no pass '{name}'; there are {', '.join(known)}")


def check_out(out: Path | None) -> None:
    """Refuses, before the work, a directory that saving would refuse after it.

    Raises:
        ArtifactError: something else is in that place, or it cannot be written to.
    """
    check_folder(out)
    if out is not None and out.exists() and any(out.iterdir()) and not is_artifact(out):
        raise ArtifactError(f"--out: {out} holds files that are not of an artifact; name another directory")


def check_folder(out: Path | None) -> None:
    """Refuses a path that is not a directory and cannot become one.

    Raises:
        ArtifactError: a file is in that place or on the way there, or the place cannot be written to.
    """
    if out is None:
        return
    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ArtifactError(f"--out: {out if there == out.absolute() else there} is a file; name a directory")
    if not os.access(there, os.W_OK):
        raise ArtifactError(f"--out: {there} cannot be written to; name another directory")
