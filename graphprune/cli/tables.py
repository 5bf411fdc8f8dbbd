"""Tables that read well on a terminal and in a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 120
"""Columns where the output is no terminal, which has no width of its own."""


def output() -> Console:
    """Standard output as it is now."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(width=FILE_WIDTH, highlight=False, markup=False, emoji=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> Table:
    """A table with the columns named in ``numbers`` to the right."""
    made = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
