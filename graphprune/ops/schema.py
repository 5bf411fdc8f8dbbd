"""Schemas of ATen ops, read once for each op, because torch builds new objects at every access."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One parameter of an ATen op."""

    name: str
    kwarg_only: bool
    has_default: bool
    default: Any


@dataclass(frozen=True)
class Schema:
    """Parameters of an ATen op.

    ``written`` is the parameter that an in-place op writes to and returns; None for ops that return something else,
    even if they also write to an argument.
    """

    parameters: tuple[Parameter, ...]
    written: str | None


@cache
def schema_of(func: Any) -> Schema:
    """The schema of an ATen overload."""
    parameters = tuple(
        Parameter(
            argument.name,
            argument.kwarg_only,
            argument.has_default_value(),
            argument.default_value if argument.has_default_value() else None,
        )
        for argument in func._schema.arguments
    )
    returned = _written_memory(func._schema.returns[0]) if func._schema.returns else set()
    written = (argument.name for argument in func._schema.arguments if _written_memory(argument) & returned)
    return Schema(parameters, next(written, None))


def _written_memory(argument: Any) -> set[str]:
    """The memory that is written through an argument or a result, by the names that the schema gives it."""
    alias = argument.alias_info
    return set(alias.before_set) if alias is not None and alias.is_write else set()


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, parameter in enumerate(schema_of(func).parameters):
        if position < len(args):
            bound[parameter.name] = args[position]
        elif parameter.name in kwargs:
            bound[parameter.name] = kwargs[parameter.name]
        elif parameter.has_default:
            bound[parameter.name] = parameter.default
    return bound


def call_by_schema(func: Any, arguments: dict[str, Any]) -> Any:
    """Calls an ATen op with arguments given by name."""
    positional, keywords = [], {}
    for parameter in schema_of(func).parameters:
        if parameter.name not in arguments:
            continue
        if parameter.kwarg_only:
            keywords[parameter.name] = arguments[parameter.name]
        else:
            positional.append(arguments[parameter.name])
    return func(*positional, **keywords)
