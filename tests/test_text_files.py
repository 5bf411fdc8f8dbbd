"""Text is read and written as UTF-8, whatever language the machine is set to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
POSITIONS = {"read_text": 0, "write_text": 1}
"""Where the encoding is among the arguments that have no names."""


def calls_without_encoding(source: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            position = POSITIONS.get(node.func.attr)
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            if position is not None and len(node.args) <= position and not named:
                yield node


@pytest.mark.parametrize("folder", ["graphprune", "benchmarks", "tests"])
def test_every_text_file_names_its_encoding(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert not [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in files
        for call in calls_without_encoding(file.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("call", ["read_text()", "write_text('a')", "write_text('a', newline='')"])
def test_what_is_found(call: str) -> None:
    assert list(calls_without_encoding(f"path.{call}"))
    assert not list(calls_without_encoding(f"path.{call[:-1]}{', ' if call[-2] != '(' else ''}encoding='utf-8')"))
