"""The recipes of CONTRIBUTING fit the code: their diffs apply, and the files that they add are not there yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = [(TEXT[: found.start()], found[1]) for found in re.finditer(r"^```diff\n(.*?)^```", TEXT, re.M | re.S)]
NEW_FILES = re.findall(r"the\s+whole of `([^`]+\.py)`", TEXT)


def file_of(before: str, diff: str) -> Path:
    """The file that a diff changes: named in its first line, or last in the text before it."""
    named = re.match(r" # (\S+\.py)$", diff, re.M)
    return ROOT / (named[1] if named else re.findall(r"`([^`\s]+/[^`\s]+\.py)`", before)[-1])


def lines_of(diff: str, marks: str) -> list[str]:
    return [line[1:] for line in diff.splitlines() if line[:1] in marks and not re.match(r" # \S+\.py$", line)]


@pytest.mark.parametrize("place", range(len(DIFFS)))
def test_a_diff_applies(place: int) -> None:
    path, diff = file_of(*DIFFS[place]), DIFFS[place][1]
    there = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines_of(diff, " -") if line not in there] == [], path
    added = lines_of(diff, "+")
    assert added
    assert not set(added) <= set(there), f"{path.name} has this already"


def test_there_are_recipes() -> None:
    assert len(DIFFS) >= 10
    assert len(NEW_FILES) == 3
    assert not [name for name in NEW_FILES if (ROOT / name).exists()], "examples do not exist yet in the code"


@pytest.mark.parametrize("place", range(len(re.findall(r"^```python\n", TEXT, re.M))))
def test_a_file_of_python_compiles(place: int) -> None:
    compile(re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)[place], "CONTRIBUTING.md", "exec")
