"""What the command writes into a file or a pipe depends on no terminal, and breaks no word."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from graphprune.cli import app

TERMINALS: list[dict[str, str]] = [
    {"COLUMNS": "40"},
    {"COLUMNS": "80", "LINES": "10"},
    {"COLUMNS": "200"},
    {"NO_COLOR": "1"},
    {"FORCE_COLOR": "1", "COLUMNS": "40"},
    {"TTY_COMPATIBLE": "1", "TERM": "xterm-256color"},
    {"TERM": "dumb", "FORCE_COLOR": "1"},
    {"TERM": ""},
]


def output(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(app, arguments, env=environment)
    assert result.exit_code == 0, result.output
    assert "\N{ESCAPE}" not in result.output
    return result.stdout


@pytest.mark.parametrize("environment", TERMINALS, ids=str)
def test_tables_are_the_same(environment: dict[str, str]) -> None:
    command = "inspect", "paper:resnet18", "--input-shape", "2,3,32,32", "--protect", "features.stage1*"
    text = output(*command, **environment)
    assert text == output(*command)
    assert "…" not in text and "features.stage1_block1.conv1.weight" in text
    assert "protected by 'features.stage1*'" in text


@pytest.mark.parametrize("command", ["demo", "compile", "inspect", "print", "bench", "sweep"])
def test_the_words_of_every_help_stay_whole(command: str) -> None:
    words = output(command, "--help", COLUMNS="200").split()
    for columns in ("40", "80"):
        assert output(command, "--help", COLUMNS=columns).split() == words


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_reports_and_tables_in_any_encoding(encoding: str) -> None:
    command = [sys.executable, "-m", "graphprune.cli", "compile", "paper:lenet5", "--criterion", "l1-norm"]
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONIOENCODING": encoding}, "timeout": 120, "check": False}
    done = subprocess.run([*command, "--schedule", "one-shot", "--time-passes"], capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("utf-8" if encoding == "ascii" else encoding)  # click takes ascii for a misunderstanding
    assert "features.conv1.weight" in text and "prune-channels" in text
    assert ("│" in text) == (encoding != "latin-1")
