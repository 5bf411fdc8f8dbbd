"""Tables inside of a Markdown text, made anew from the rows: what stands around them is written by hand.

A table stands between two comments, of which the first names it: ``<!-- accuracy structured lenet5 fashion_mnist -->``
and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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
"""By the first word of the comment."""

_NAMES = " ".join(rf"(?P<{name}>\w+)" for name in ("kind", "study", "network", "data"))
_PLACE = re.compile(rf"<!-- {_NAMES} -->.*?<!-- end -->", re.DOTALL)


def filled(text: str, rows: Sequence[Row]) -> str:
    """The text with all its tables made from the rows.

    Raises:
        OptionError: a table is of no known kind, or of no rows, or of runs that differ in epochs or samples.
    """

    def made(place: re.Match[str]) -> str:
        named = place.groupdict()
        kind = named.pop("kind")
        found = points(row for row in rows if all(row[name] == value for name, value in named.items()))
        settings = sorted({point.data for point in found})
        if kind not in TABLES or len(settings) != 1:
            expected = f"expected one of {', '.join(TABLES)}, and runs of one setting; got {settings}"
            raise OptionError(f"{kind} {' '.join(named.values())}: {expected}")
        return f"<!-- {kind} {' '.join(named.values())} -->\n\n{TABLES[kind](found)}\n\n<!-- end -->"

    return _PLACE.sub(made, text)
