"""Tables in a Markdown text, which are made from the rows; the text around them is written by hand.

A table stands between two comments. The first one names the table:
``<!-- accuracy structured lenet5 fashion_mnist -->`` or, for the ablation, ``<!-- ablation lenet5 channel -->``. The
second one is ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from benchmarks.paper.ablation import tables as ablation
from benchmarks.paper.summary import ATTACKS, COSTS, FIGURES, Point, best, by_target, layers, points, table
from benchmarks.rows import Row
from graphprune.errors import OptionError

TABLES: dict[str, Callable[[Sequence[Point]], str]] = {
    "accuracy": by_target,
    "penalties": lambda found: table([point for point in found if point.target_kind == "lambda"], FIGURES),
    "all": lambda found: table(found, FIGURES),
    "best": lambda found: table(best(found), FIGURES),
    "costs": lambda found: table([point for point in found if point.structured], COSTS),
    "attacks": lambda found: table(found, ATTACKS),
    "layers": lambda found: table(found, layers(found)),
}
"""Functions that make a table, by the first word of the comment."""

_PLACE = re.compile(r"<!-- (?P<name>\w+(?: [\w-]+){2,3}) -->.*?<!-- end -->", re.DOTALL)


def filled(text: str, rows: Sequence[Row], ablated: Sequence[Row] = ()) -> str:
    """Returns the text with all its tables made from the rows of the studies and of the ablation.

    Raises:
        OptionError: a table has an unknown kind, has no rows, or has rows of runs whose settings differ.
    """

    def made(place: re.Match[str]) -> str:
        kind, *of = place["name"].split()
        content = _ablation(ablated, *of) if kind == "ablation" else _table(rows, kind, *of)
        return f"<!-- {place['name']} -->\n\n{content}\n\n<!-- end -->"

    return _PLACE.sub(made, text)


def _table(rows: Sequence[Row], kind: str, *of: str) -> str:
    found = points(row for row in rows if (row["study"], row["network"], row["data"]) == of)
    settings = sorted({point.data for point in found})
    if kind not in TABLES or len(settings) != 1:
        expected = f"expected one of {', '.join(TABLES)}, ablation, and runs of one setting; got {settings}"
        raise OptionError(f"{kind} {' '.join(of)}: {expected}")
    return TABLES[kind](found)


def _ablation(rows: Sequence[Row], *of: str) -> str:
    if of not in {(row["network"], row["granularity"]) for row in rows}:
        raise OptionError(f"ablation {' '.join(of)}: expected a network and a granularity that the ablation has")
    network, granularity = of
    return ablation.table(rows, network, granularity)
