"""``graphprune inspect``: what can be removed from a model, what it costs, and what is frozen and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli import options
from graphprune.cli.model_names import build_model
from graphprune.cli.tables import show, table
from graphprune.costs.model import CostModel, costs_of
from graphprune.coupling.explain import described, path_to_cause
from graphprune.coupling.gaps import refuse_gaps
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.labels import Owner
from graphprune.latency import LatencyModel, Profile
from graphprune.passes import pipelines
from graphprune.program.example import Example
from graphprune.program.program import Program
from graphprune.report import frozen_rows, with_whole_reasons
from graphprune.request.options import attention_of
from graphprune.saving.artifact import REPORT_TEXT
from graphprune.saving.manifest import Manifest

NAME, SUMMARY = "inspect", "Show what can be removed, what it costs, what is frozen and why."
HELP = """Shows which channels of MODEL can be removed, in groups, what they cost, and which weights are frozen and why.

MODEL may also be a directory that `graphprune compile --out` wrote; its report is printed then.

\b
Examples:
  graphprune inspect torchvision:mobilenet_v2
  graphprune inspect paper:resnet18 --protect 'features.stage1*'
  graphprune inspect torchvision:resnet18 --why fc.weight --why conv1.weight[1]
  graphprune inspect timm:volo_d1_224 --strict
  graphprune inspect timm:vit_giant_patch14_224 --meta --attention head_dim
  graphprune inspect torchvision:resnet18 --cost --threads 1
  graphprune inspect resnet18-half
"""


def command(
    model: options.Model,
    why: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Explain a parameter or buffer instead: its group, or the ties that lead to what freezes it. "
            "'NAME[1]' asks about dim 1; dim 0 otherwise. May be repeated.",
        ),
    ] = None,
    input_shape: options.InputShape = None,
    weights: options.Weights = None,
    protect: options.Protect = None,
    seed: options.Seed = 0,
    attention: options.Attention = "heads",
    strict: options.Strict = False,
    meta: options.Meta = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Also predict latency, from times of single operators on this machine.")
    ] = False,
    provider: options.Provider = "auto",
    threads: options.Threads = 1,
) -> None:
    """Analyses the model; nothing is pruned."""
    if Path(model).is_dir():
        _print_saved(Path(model), why)
        return
    if meta and weights is not None:
        raise OptionError("--meta builds the model without values; leave out --weights")
    named = build_model(model, input_shape, weights, seed, device="meta" if meta else "cpu")
    program = pipelines.analysed(named.module, named.example, tuple(protect or ()), attention_of(attention))
    for name in why or ():
        typer.echo("\n".join(explanation(program, name)))
    if not why:
        _print_tables(model, program, program[Dependencies])
    if cost:
        _print_costs(program, Profile.here(provider, threads, Example.of(named.example).batch_size))
    if strict:
        refuse_gaps(program)


def _print_saved(directory: Path, why: list[str] | None) -> None:
    if why:
        raise OptionError("--why goes with a model; of a saved directory only the report is there")
    Manifest.read(directory).check_files(directory)
    typer.echo((directory / REPORT_TEXT).read_text(encoding="utf-8").rstrip())


def _print_tables(model: str, program: Program, dependencies: Dependencies) -> None:
    costs = CostModel(program, dependencies)
    everything = KeepSet.everything(dependencies)
    show(f"{model}: {type(program.module).__name__}, captured by {program.captured_by}")
    show(
        f"{costs.channels(everything):,} prunable channels in {len(dependencies.groups)} groups, "
        f"{costs.params(everything):,} parameters, {costs.macs(everything):,} multiply-accumulates per sample"
    )
    columns = ("group", "channels", "dims", "params of a channel", "macs of a channel", "first member")
    rows = list(_group_rows(costs, dependencies, everything))
    show(table(columns, rows, numbers=columns[1:5]))
    frozen = [(row.name, row.channels, with_whole_reasons(row.why)) for row in frozen_rows(program, dependencies)]
    if frozen:
        show(table(("frozen weight", "channels", "why"), frozen, numbers=("channels",)))


def _print_costs(program: Program, profile: Profile) -> None:
    """Prints for each group what would be saved if only one of its channels were left."""
    costs, latency = costs_of(program), LatencyModel(program, profile)
    elements, ms = float(latency.elements(latency.full)), float(latency.ms(latency.full))
    everything = KeepSet.everything(costs.dependencies)
    show(f"{ms:.4g} ms predicted for convolutions and products, batch {profile.target.batch_size}; {profile.target}")
    columns = ("group", "channels", "params", "macs", "activations", "ms", "suits", "first member")
    rows = []
    for index, (group, step) in enumerate(zip(costs.dependencies.groups, latency.steps(), strict=True)):
        keep, counts = everything.without(slice(group.start + 1, group.stop)), latency.full
        counts[index] = 1
        params, macs = costs.params(everything) - costs.params(keep), costs.macs(everything) - costs.macs(keep)
        saved = elements - float(latency.elements(counts)), ms - float(latency.ms(counts))
        rows.append((group.id, str(group.channels), f"{params:,}", f"{macs:,}", f"{saved[0]:,.0f}", f"{saved[1]:.4g}",
                     f"multiples of {step}" if step > 1 else "any", group.name))  # fmt: skip
    show(table(columns, rows, numbers=columns[1:6]))


def _group_rows(costs: CostModel, dependencies: Dependencies, everything: KeepSet) -> Iterator[tuple[str, ...]]:
    """Yields a row for each group, with what one of its channels costs while all others are kept."""
    params, macs = costs.params(everything), costs.macs(everything)
    for group in dependencies.groups:
        without = everything.without(slice(group.start, group.start + 1))
        yield (
            group.id,
            str(group.channels),
            str(len(group.members)),
            f"{params - costs.params(without):,}",
            f"{macs - costs.macs(without):,}",
            group.name,
        )


def explanation(program: Program, text: str) -> list[str]:
    """Explains ``name`` or ``name[dim]`` line by line: what freezes it, and which groups it belongs to.

    Raises:
        OptionError: the program has no such dim.
    """
    dependencies = program[Dependencies]
    owner = _owner(dependencies, text)
    title, frozen = f"{owner.name}[{owner.dim}]", dependencies.frozen_indices(owner)
    lines = []
    if frozen:
        lines = [f"{title}, {_some(frozen, owner.size)} indices: frozen"]
        lines += _indented(described(path_to_cause(program, owner.name, owner.dim)))
    for group in dependencies.groups:
        per_channel = {(member.name, member.dim): member.per_channel for member in group.members}
        if count := per_channel.get((owner.name, owner.dim)):
            some = _some(count * group.channels, owner.size)
            lines.append(f"{title}, {some} indices: prunable, group {group.id}, {group.channels} channels; with it go")
            lines += _indented(f"{name}[{dim}]" for name, dim in per_channel)
    return lines


def _owner(dependencies: Dependencies, text: str) -> Owner:
    match = re.fullmatch(r"(.+)\[(\d+)\]", text)
    name, dim = (match[1], int(match[2])) if match else (text, 0)
    owners = {(owner.name, owner.dim): owner for owner in dependencies.stored}
    if (name, dim) in owners:
        return owners[name, dim]
    names = list(dict.fromkeys(owner.name for owner in dependencies.stored))
    if name in names:
        raise OptionError(f"--why '{text}': {name} has no dim {dim} with channels")
    near = get_close_matches(name, names, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise OptionError(f"--why '{text}': the model has no parameter or buffer '{name}' with channels{hint}")


def _some(count: int, size: int) -> str:
    return str(count) if count == size else f"{count} of {size}"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
