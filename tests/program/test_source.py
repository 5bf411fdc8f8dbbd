"""Lines of code are named from where their package or project begins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphprune.program.source import short_path, source_of


def test_a_file_of_a_package_is_named_from_the_packages_folder(tmp_path: Path) -> None:
    folder = tmp_path / "some where" / "site-packages" / "vision" / "models"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    assert short_path(str(folder / "resnet.py")) == "vision/models/resnet.py"
    assert source_of(str(folder / "resnet.py"), 7) == "vision/models/resnet.py:7"


def test_other_files_are_named_from_the_innermost_folder_of_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", str(tmp_path.parent), str(tmp_path), *sys.path])
    assert short_path(str(tmp_path / "experiments" / "train.py")) == "experiments/train.py"


def test_what_lies_nowhere_keeps_its_name(tmp_path: Path) -> None:
    assert short_path(str(tmp_path / "scratch" / "net.py")) == "net.py"
    assert short_path("<ipython-input-3>") == "<ipython-input-3>"
    assert short_path("<eval_with_key>.12") == "<eval_with_key>.12"
