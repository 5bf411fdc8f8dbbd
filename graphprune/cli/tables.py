"""Tables that read well on a terminal and in a file."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

import typer
from rich import box
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 120
"""Width in columns where the output is not a terminal and so has no width of its own."""


def show(content: Table | str) -> None:
    """Writes to standard output, without the trailing blanks of a table's lines."""
    if isinstance(content, str):
        typer.echo(content)
        return
    # asked of the output itself: rich takes a file for a terminal where FORCE_COLOR is set
    terminal = sys.stdout.isatty()
    console = Console(
        width=None if terminal else FILE_WIDTH, force_terminal=terminal,
        color_system=None, highlight=False, markup=False, emoji=False,
    )  # fmt: skip
    with console.capture() as captured:
        console.print(content)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()) -> Table:
    """Returns a table; the columns named in ``numbers`` are aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style=None)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
