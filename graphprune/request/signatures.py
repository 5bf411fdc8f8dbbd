"""Signatures of functions that take the options of another one: stated once, known to type checkers and to `help`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def takes_as(other: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Returns a decorator for a function that takes the arguments of another one and passes all of them on."""

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        returns = inspect.signature(function).return_annotation
        _show(function, inspect.signature(other).replace(return_annotation=returns))
        return function

    return decorate


def takes_options_of(other: Callable[..., object], *, but: tuple[str, ...]) -> Callable[[FunctionT], FunctionT]:
    """Returns a decorator for a function whose ``**options`` are the keyword arguments of another one, but for some."""

    def decorate(function: FunctionT) -> FunctionT:
        own = inspect.signature(function)
        named = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            each
            for name, each in inspect.signature(other).parameters.items()
            if each.kind is inspect.Parameter.KEYWORD_ONLY and name not in own.parameters and name not in but
        ]
        _show(function, own.replace(parameters=[*named, *options]))
        return function

    return decorate


def _show(function: Any, signature: inspect.Signature) -> None:
    function.__signature__ = signature
