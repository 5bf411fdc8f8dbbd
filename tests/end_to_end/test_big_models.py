"""Models that do not fit into memory twice are analysed without values."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import graphprune
from graphprune.errors import InputError
from tests.small_models import Chain

ANALYSE_A_BILLION_PARAMETERS = r"""
import pathlib, re, timm, torch
from graphprune.capture import capture
from graphprune.passes import pipelines
from graphprune.runner import Runner

torch.set_num_threads(1)
with torch.device("meta"):
    model = timm.create_model("vit_giant_patch14_224")
    example = torch.randn(1, 3, 224, 224)
assert sum(parameter.numel() for parameter in model.parameters()) > 10**9
program = Runner().run(pipelines.analysis(), capture(model, example))
# ru_maxrss would count what the process that started this one holds
peak_kib = re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1]
print(program.dependencies.channels, peak_kib)
"""


def test_a_billion_parameters_are_analysed_in_two_gib() -> None:
    done = subprocess.run(
        [sys.executable, "-Wignore", "-c", ANALYSE_A_BILLION_PARAMETERS], capture_output=True, text=True, check=True
    )
    channels, peak_kib = map(int, done.stdout.split())
    # the residual stream, and 16 heads and 6144 hidden units in each of 40 blocks
    assert channels == 1408 + 40 * (16 + 6144)
    assert peak_kib <= 2 * 2**20


def test_a_model_without_values_is_reported_on_and_not_pruned() -> None:
    with torch.device("meta"):
        model, example = Chain(), torch.randn(2, 2, 8, 8)
    pruner = graphprune.Pruner(model, example)
    assert [row.before for row in pruner.report().groups] == [6]
    with pytest.raises(InputError, match="Chain is on the meta device"):
        pruner.step()
