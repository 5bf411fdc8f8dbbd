"""Named choices: criteria and schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from graphprune.errors import InternalError, OptionError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name; entering two under one name raises."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that enters an object under a name."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise InternalError(f"{self.kind} '{name}' is registered already")
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __getitem__(self, name: str) -> T:
        """Returns the entry of that name.

        Raises:
            OptionError: no entry has that name.
        """
        if name not in self._entries:
            raise OptionError(f"{self.kind} '{name}' is unknown; known are {', '.join(self.names())}")
        return self._entries[name]


def check_name(option: str, given: str, known: Iterable[str]) -> None:
    """Refuses a value that is not among the known names of an option.

    Raises:
        OptionError: the value is unknown; the message lists the known names.
    """
    if given not in (names := tuple(known)):
        raise OptionError(f"{option}='{given}' is unknown; known are {', '.join(names)}")
