"""Names that options may have."""

from __future__ import annotations

from collections.abc import Iterable

from graphprune.errors import OptionError


def check_name(option: str, given: str, known: Iterable[str]) -> None:
    """Refuses a name that an option does not have.

    Raises:
        OptionError: with the names that there are.
    """
    if given not in (names := tuple(known)):
        raise OptionError(f"{option}='{given}' is unknown; known are {', '.join(names)}")
