"""Named choices: one entry for each name, and messages that list the names there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.errors import InternalError, OptionError
from graphprune.registry import Registry, check_name

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=4)


@given(st.dictionaries(NAMES, st.one_of(st.none(), st.booleans(), st.integers(0, 2))))
def test_entries_are_found_under_their_names(entries: dict[str, object]) -> None:
    """Those that count as false, too."""
    registry: Registry[object] = Registry("number")
    for name, entry in entries.items():
        assert registry.register(name)(entry) is entry, "the decorator leaves what it enters as it is"
    assert registry.names() == sorted(entries)
    assert {name: registry[name] for name in registry.names()} == entries


def test_it_is_a_decorator_of_functions() -> None:
    registry: Registry[Callable[[int], int]] = Registry("schedule")

    @registry.register("twice")
    @registry.register("double")
    def double(value: int) -> int:
        return 2 * value

    assert registry["double"] is registry["twice"] is double
    assert double(3) == 6


def test_a_refused_entry_leaves_the_first_one() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("nothing")(0)
    enter = registry.register("nothing")
    with pytest.raises(InternalError, match=r"^number 'nothing' is registered already$"):
        enter(1)
    assert registry["nothing"] == 0 and registry.names() == ["nothing"]


def test_registries_know_nothing_of_each_other() -> None:
    first, second = Registry[int]("first"), Registry[int]("second")
    first.register("one")(1)
    second.register("one")(2)
    assert (first["one"], second["one"]) == (1, 2)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    registry: Registry[int] = Registry("criterion")
    for index, name in enumerate(("taylor", "bn-gamma", "random")):
        registry.register(name)(index)
    with pytest.raises(OptionError, match=r"^criterion 'tailor' is unknown; known are bn-gamma, random, taylor$"):
        registry["tailor"]


@given(st.lists(NAMES, unique=True), NAMES)
def test_a_name_is_checked_against_those_that_there_are(known: list[str], given_name: str) -> None:
    if given_name in known:
        check_name("option", given_name, known)
        return
    with pytest.raises(OptionError) as caught:
        check_name("option", given_name, known)
    assert str(caught.value) == f"option='{given_name}' is unknown; known are {', '.join(known)}"


@pytest.mark.parametrize("known", [("b", "a"), ["b", "a"], {"b": 1, "a": 2}, (name for name in "ba")])
def test_names_can_come_in_any_form_and_keep_their_order(known: Iterable[str]) -> None:
    with pytest.raises(OptionError, match="option='c' is unknown; known are b, a"):
        check_name("option", "c", known)


@pytest.mark.parametrize("wrong", [3, None, ["a"], ("a",), "A", "a ", ""])
def test_what_only_looks_like_a_name_is_refused(wrong: str) -> None:
    with pytest.raises(OptionError, match=r"is unknown; known are a$"):
        check_name("option", wrong, ("a",))
