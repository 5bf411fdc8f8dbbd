"""What is installed, and under which names."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.source_files import PACKAGE, PASSES, ROOT, python_files

# --- helpers ---------------------------------------------------------------------------------------------------------


def project_table() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return table


def copy_of_the_project(target: Path) -> Path:
    """The files that a build reads, links kept, so that the build leaves nothing in the checkout."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    for name in ("graphprune", "passes"):
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def build(source: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def files_in_wheel(wheel: Path) -> dict[str, bytes]:
    """What is installed into site-packages, without the metadata."""
    return {name: data for name, data in all_files(wheel).items() if ".dist-info/" not in name}


def all_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- what is in the archives -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built straight from the checkout, as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    build(copy_of_the_project(folder / "source"), folder / "dist", "--wheel")
    (found,) = (folder / "dist").glob("graphprune-*.whl")
    return found


def test_wheel_has_one_import_root_and_every_module(wheel: Path) -> None:
    files = files_in_wheel(wheel)
    assert {name.split("/")[0] for name in files} == {"graphprune"}
    expected = {path.relative_to(ROOT).as_posix() for path in python_files(PACKAGE)}
    assert set(files) == expected | {"graphprune/py.typed"}


def test_wheel_holds_the_passes_as_real_files(wheel: Path) -> None:
    files = files_in_wheel(wheel)
    sources = list(python_files(ROOT / "passes"))
    assert sources, "passes/ is empty"
    for source in sources:
        name = "graphprune/" + source.relative_to(ROOT).as_posix()
        assert files[name] == source.read_bytes(), name


def test_wheel_names_the_command_and_the_license(wheel: Path) -> None:
    metadata = {name.split(".dist-info/")[-1]: data.decode() for name, data in all_files(wheel).items()}
    assert "graphprune = graphprune.cli:main" in metadata["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in metadata["METADATA"]
    assert "Apache License" in metadata["licenses/LICENSE"]


def test_sdist_holds_the_passes_once_and_gives_the_same_wheel(tmp_path: Path, wheel: Path) -> None:
    build(copy_of_the_project(tmp_path / "source"), tmp_path / "dist")  # the default: an sdist, then a wheel from it
    (sdist,) = (tmp_path / "dist").glob("graphprune-*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    inits = [member.name.split("/", 1)[1] for member in members if member.name.endswith("passes/__init__.py")]
    assert inits == ["graphprune/passes/__init__.py"]
    (again,) = (tmp_path / "dist").glob("graphprune-*.whl")
    assert files_in_wheel(again) == files_in_wheel(wheel)


def test_every_package_is_listed_in_pyproject() -> None:
    table = project_table()["tool"]
    assert isinstance(table, dict)
    listed = table["setuptools"]["packages"]
    present = {".".join(path.parent.relative_to(ROOT).parts) for path in python_files(PACKAGE)}
    assert sorted(listed) == sorted(present), "[tool.setuptools] packages in pyproject.toml and the folders differ"


def test_every_package_has_an_init() -> None:
    folders = {path.parent for path in python_files(PACKAGE)}
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize(
    ("platform", "machine", "expected"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_one_onnxruntime_on_each_platform(platform: str, machine: str, expected: str) -> None:
    project = project_table()["project"]
    assert isinstance(project, dict)
    environment = {"sys_platform": platform, "platform_machine": machine}
    wanted = [Requirement(text) for text in project["dependencies"]]
    here = [r.name for r in wanted if r.marker is None or r.marker.evaluate(environment)]
    assert [name for name in here if name.startswith("onnxruntime")] == [expected]


# --- names -----------------------------------------------------------------------------------------------------------


def test_passes_is_a_relative_link() -> None:
    assert os.readlink(PACKAGE / "passes") == os.path.join("..", "passes")


def test_passes_can_be_imported_under_its_own_name() -> None:
    assert importlib.import_module(PASSES).__name__ == PASSES


def test_passes_refuses_any_other_name() -> None:
    # PYTHONSAFEPATH would keep the root off the path, and the import would fail for another reason.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-c", "import passes"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: this folder is imported as 'graphprune.passes', not as 'passes'"
