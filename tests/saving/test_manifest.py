from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import graphprune
from graphprune.errors import ArtifactError
from graphprune.research.networks import lenet5
from graphprune.saving.manifest import is_artifact
from tests.saving.artifacts import FILES, edit_manifest, saved_lenet

Load = Callable[[Path], nn.Module]


@pytest.fixture(params=["stored program", "trainable module"])
def load(request: pytest.FixtureRequest) -> Load:
    return graphprune.load if request.param == "stored program" else lambda path: graphprune.load(path, lenet5())


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """An artifact to be damaged."""
    return saved_lenet().unpack(tmp_path / "damaged")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(load: Load, damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is missing|has no {name}"):
        load(damaged)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_truncated_file_is_named(load: Load, damaged: Path, name: str, share: float) -> None:
    data = (damaged / name).read_bytes()
    (damaged / name).write_bytes(data[: int(share * len(data.rstrip()))])
    with pytest.raises(ArtifactError, match=rf"{name} (was|is) truncated"):
        load(damaged)


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_an_edited_file_is_named(load: Load, damaged: Path, name: str) -> None:
    data = bytearray((damaged / name).read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} was changed: expected sha256 \w+\.\.\., got"):
        load(damaged)
    (damaged / name).write_bytes(data + b"\n")
    with pytest.raises(ArtifactError, match=rf"{name} was changed: expected \d+ bytes, got \d+"):
        load(damaged)


def test_all_damaged_files_are_named_at_once_with_the_remedy(damaged: Path) -> None:
    (damaged / "report.txt").unlink()
    (damaged / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError) as raised:
        graphprune.load(damaged)
    for part in ("report.txt is missing", "model.onnx was truncated", "save the artifact again"):
        assert part in str(raised.value)


def test_what_is_no_artifact_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no directory .*nothing; expected a directory written by"):
        load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json; expected a directory written by"):
        load(tmp_path)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="file is no directory; expected a directory written by"):
        load(tmp_path / "file")


# --- the manifest itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"format": "onnx"}', '"graphprune-artifact"'])
def test_a_foreign_manifest_is_refused(load: Load, damaged: Path, text: str) -> None:
    (damaged / "manifest.json").write_text(text, encoding="utf-8")
    assert not is_artifact(damaged)
    with pytest.raises(ArtifactError, match=r"is not from graphprune: format is .*, expected 'graphprune-artifact'"):
        load(damaged)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"[" * 100_000, b"{", b'{"format": "graphprune-art'])
def test_an_unreadable_manifest_is_refused(load: Load, damaged: Path, data: bytes) -> None:
    (damaged / "manifest.json").write_bytes(data)
    assert not is_artifact(damaged)
    with pytest.raises(ArtifactError, match=r"manifest\.json is truncated or damaged"):
        load(damaged)


@pytest.mark.parametrize("version", [0, 2, "1", None, {}])
def test_another_version_is_refused(load: Load, damaged: Path, version: Any) -> None:
    edit_manifest(damaged, lambda content: content.update(version=version))
    assert is_artifact(damaged)
    with pytest.raises(
        ArtifactError, match=r"manifest\.json is of version .*, this graphprune reads version 1; load it"
    ):
        load(damaged)


def test_an_edited_manifest_is_refused(load: Load, damaged: Path) -> None:
    edit_manifest(damaged, lambda content: content["call"].update(inputs=["other"]), seal=False)
    with pytest.raises(ArtifactError, match=r"manifest\.json was edited or is damaged: .* does not have the checksum"):
        load(damaged)


ABSURD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no model": lambda content: content.pop("model"),
    "no libraries": lambda content: content.pop("libraries"),
    "no files": lambda content: content.pop("files"),
    "no aliases": lambda content: content.pop("aliases"),
    "no call": lambda content: content.pop("call"),
    "model is a number": lambda content: content.update(model=1),
    "libraries are a list": lambda content: content.update(libraries=["torch"]),
    "files are nothing": lambda content: content.update(files=None),
    "files are a list": lambda content: content.update(files=["plan.json"]),
    "a file is a text": lambda content: content["files"].update(other="x"),
    "a file lacks its size": lambda content: content["files"].update(other={"sha256": ""}),
    "a size is a text": lambda content: content["files"].update(other={"sha256": "", "size_bytes": "1"}),
    "a file lies elsewhere": lambda content: content["files"].update({"../x": {"sha256": "", "size_bytes": 1}}),
    "a file is the manifest": lambda content: content["files"].update({"manifest.json": {}}),
    "aliases are a list": lambda content: content.update(aliases=["a"]),
    "an alias is a number": lambda content: content.update(aliases={"a": 1}),
    "the call is a number": lambda content: content.update(call=1),
    "inputs are a text": lambda content: content["call"].update(inputs="x"),
    "no outputs": lambda content: content["call"].pop("outputs"),
    "outputs are numbers": lambda content: content["call"].update(outputs=[1]),
    "no structure": lambda content: content["call"].pop("returns"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_content_is_refused(load: Load, damaged: Path, name: str) -> None:
    edit_manifest(damaged, ABSURD[name])
    with pytest.raises(ArtifactError, match=r"manifest\.json was edited or is damaged"):
        load(damaged)


FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a file is not listed": (
        lambda content: content["files"].pop("plan.json"),
        r"manifest\.json does not list plan\.json",
    ),
    "a listed file is missing": (
        lambda content: content["files"].update(other={"sha256": "", "size_bytes": 1}),
        "other is missing",
    ),
    "another input": (lambda content: content["call"].update(inputs=["other"]), r"model\.onnx: expected the inputs"),
    "one more output": (
        lambda content: content["call"].update(outputs=["output", "b"]),
        r"model\.onnx: expected the inp",
    ),
    "structure of a second output": (lambda content: content["call"].update(returns={"tensor": 1}), "structure of its"),
    "structure of a text": (
        lambda content: content["call"].update(returns={"tensor": "a"}),
        "structure of its outputs",
    ),
    "structure of no kind": (lambda content: content["call"].update(returns={"set": []}), "structure of its outputs"),
    "structure without output": (lambda content: content["call"].update(returns=None), "structure of its outputs"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_is_refused(load: Load, damaged: Path, name: str) -> None:
    change, message = FORGED[name]
    edit_manifest(damaged, change)
    with pytest.raises(ArtifactError, match=message):
        load(damaged)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plan.json", r"plan\.json: the plan is not valid JSON"),
        ("model.onnx", r"onnxruntime cannot load .*model\.onnx"),
    ],
)
def test_garbage_is_refused_even_with_its_checksum(load: Load, damaged: Path, name: str, message: str) -> None:
    (damaged / name).write_bytes(b"garbage")
    edit_manifest(damaged, lambda content: None)
    with pytest.raises(ArtifactError, match=message):
        load(damaged)
