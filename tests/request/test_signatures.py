"""Options are stated once: functions that pass them on show them as their own."""

from __future__ import annotations

import inspect
from inspect import Parameter, Signature
from typing import Any

import pytest

import graphprune
from graphprune import Pruner
from graphprune.request.signatures import takes_as, takes_options_of


def shape(width: int, /, height: int = 2, *rest: float, depth: float = 0.5, colour: str, **more: bool) -> str:
    """Has a parameter of each kind."""
    return f"{width} {height} {rest} {depth} {colour} {more}"


# --- all arguments of another function --------------------------------------------------------------------------------


def test_the_arguments_are_those_of_the_other_and_the_result_is_its_own() -> None:
    @takes_as(shape)
    def passed_on(*args: Any, **options: Any) -> bytes:
        return shape(*args, **options).encode()

    signature = inspect.signature(passed_on)
    assert signature.parameters == inspect.signature(shape).parameters
    assert signature.return_annotation == "bytes"
    assert passed_on(1, 3, depth=0.25, colour="red") == shape(1, 3, depth=0.25, colour="red").encode()


def test_the_other_may_be_a_class() -> None:
    class Box:
        def __init__(self, width: int, *, depth: float = 0.5) -> None:
            self.size = width, depth

    @takes_as(Box)
    def box(*args: Any, **options: Any) -> Box:
        return Box(*args, **options)

    assert list(inspect.signature(box).parameters) == ["width", "depth"], "not the object itself"
    assert box(1, depth=2.0).size == (1, 2.0)


def test_the_decorated_function_is_the_same_one() -> None:
    def passed_on(*args: Any, **options: Any) -> str:
        """Says what it does."""
        return shape(*args, **options)

    assert takes_as(shape)(passed_on) is passed_on
    assert takes_options_of(shape, but=())(passed_on) is passed_on


# --- keyword arguments of another function ----------------------------------------------------------------------------


def other(model: int, place: str = "", *, first: int = 1, second: int, third: float = 3.0, own: int = 4) -> None:
    """Has options that are left out or taken in another way."""


def test_options_stand_in_the_place_of_further_ones() -> None:
    @takes_options_of(other, but=("second",))
    def function(model: int, *, own: str = "mine", **options: Any) -> dict[str, Any]:
        return {"model": model, "own": own, **options}

    found = inspect.signature(function).parameters
    assert list(found) == ["model", "own", "first", "third"]
    assert found["own"].default == "mine", "an option of its own is its own"
    assert [found[name] for name in ("first", "third")] == [
        inspect.signature(other).parameters[name] for name in ("first", "third")
    ]
    assert function(1, third=2.0) == {"model": 1, "own": "mine", "third": 2.0}


def test_arguments_that_can_be_given_by_position_are_no_options() -> None:
    @takes_options_of(other, but=())
    def function(**options: Any) -> None: ...

    found = inspect.signature(function).parameters.values()
    assert [each.name for each in found] == ["first", "second", "third", "own"]
    assert all(each.kind is Parameter.KEYWORD_ONLY for each in found)


# --- the functions of the package -------------------------------------------------------------------------------------

DECIDED_BY_A_SWEEP = {"sparsity", "budget", "schedule", "granularity"}


def without_result(signature: Signature) -> Signature:
    return signature.replace(return_annotation=Signature.empty)


def test_compile_takes_what_a_pruner_takes() -> None:
    signature = inspect.signature(graphprune.compile)
    assert without_result(signature) == without_result(inspect.signature(Pruner))
    assert signature.return_annotation == "Compiled"


def test_a_sweep_takes_the_options_of_compile_but_those_that_it_decides() -> None:
    of_compile, of_sweep = (inspect.signature(each).parameters for each in (graphprune.compile, graphprune.sweep))
    options = {name for name, each in of_compile.items() if each.kind is Parameter.KEYWORD_ONLY}
    assert options > DECIDED_BY_A_SWEEP
    assert options - DECIDED_BY_A_SWEEP <= of_sweep.keys() and not DECIDED_BY_A_SWEEP & of_sweep.keys()
    for name in options - DECIDED_BY_A_SWEEP:
        assert of_sweep[name].default == of_compile[name].default, name
    assert of_sweep.keys() - options == {"model", "example_input", "latencies", "evaluate", "finetune", "repeats"}
    assert not any(each.kind is Parameter.VAR_KEYWORD for each in of_sweep.values())


@pytest.mark.parametrize("function", [graphprune.compile, graphprune.sweep])
def test_every_option_is_described(function: Any) -> None:
    described = inspect.getdoc(function) or ""
    arguments = described.partition("Args:\n")[2]
    missing = [name for name in inspect.signature(function).parameters if f"    {name}: " not in arguments]
    if function is graphprune.sweep:
        taken = inspect.signature(graphprune.compile).parameters
        missing = [name for name in missing if name not in taken]  # described there
    assert not missing
