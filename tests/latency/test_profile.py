"""Profiles are measured once, kept, and refused on another machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import ArtifactError, OptionError
from graphprune.labels.contractions import Window
from graphprune.latency.kernels import Kernel
from graphprune.latency.profiles import Profile, Target

KERNEL = Kernel("Conv", (1, 1, 4, 3), Window((4, 4), (3, 3), (1, 1), (1, 1), (1, 1), transposed=False))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(tmp_path))
    return tmp_path


def test_each_kernel_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Profile.here("cpu")
    (ms,) = first.ms([KERNEL])
    assert ms > 0
    monkeypatch.setattr("graphprune.latency.profiles.measured_ms", lambda kernel, target: pytest.fail("measured again"))
    assert first.ms([KERNEL]) == [ms]
    assert Profile.here("cpu").ms([KERNEL]) == [ms], "what was measured before is read"


def test_what_cannot_be_kept_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(cache / "file"))
    (ms,) = Profile.here("cpu").ms([KERNEL])
    assert ms > 0 and "the profile is not kept" in caplog.text and "set GRAPHPRUNE_CACHE" in caplog.text


def test_other_targets_have_files_of_their_own(cache: Path) -> None:
    Profile.here("cpu").ms([KERNEL])
    assert not Profile.here("cpu", threads=2).known_ms
    assert len(list(cache.iterdir())) == 1


def test_a_profile_of_another_machine_is_refused(cache: Path) -> None:
    path = Profile.here("cpu").save(cache / "mine.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["target"]["hardware"] = "abacus, 1 of 1 cores, no GPU"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"was measured on another machine:\n.*abacus(.|\n)*run graphprune.profile"):
        Profile.load(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "target": {}, "kernels": []}'])
def test_damaged_files(cache: Path, content: str) -> None:
    path = cache / "profile.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match="is no profile of graphprune"):
        Profile.load(path)


def test_options() -> None:
    with pytest.raises(OptionError, match="threads=0: expected a whole number"):
        Target.here("cpu", threads=0)
    with pytest.raises(OptionError, match="provider='tpu' is unknown"):
        graphprune.profile(provider="tpu")
    with pytest.raises(OptionError, match="dtype='int8': expected"):
        graphprune.profile(provider="cpu", dtype="int8")


def test_a_model_has_its_operators_measured() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    found = graphprune.profile(model, torch.randn(2, 3, 6, 6), provider="cpu")
    assert found.known_ms
    assert {kernel.op for kernel in found.known_ms} == {"Conv"}
