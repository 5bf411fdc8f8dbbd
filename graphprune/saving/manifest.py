"""The manifest of an artifact: files with their checksums, ties among the weights, how the program is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphprune.errors import ArtifactError, shown
from graphprune.plan.plan import listed
from graphprune.plan.trees import READ_ERRORS, explained

FORMAT = "graphprune-artifact"
VERSION = 1
MANIFEST = "manifest.json"

_REMEDY = "save the artifact again, or copy it anew from where it came"


@dataclass(frozen=True)
class CallForm:
    """How the stored program is called.

    Attributes:
        parameters: Names of the parameters that can be given by position, in order.
        inputs: Names of the ONNX file's inputs, in the order of the example's tensors.
        outputs: Names of the ONNX file's outputs, in the order of the module's.
        returns: Structure of the module's output, as `graphprune.plan.trees.encode_outputs` writes it.
    """

    parameters: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    returns: Any


@dataclass(frozen=True)
class StoredFile:
    """One file of an artifact: its checksum and its size."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        """Reads a whole file and takes its checksum and size."""
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        model: Class name of the user's model.
        libraries: Versions of graphprune and torch that wrote the artifact, by name.
        files: All files but the manifest itself, by name.
        aliases: Further names of tied tensors, each with the name that the tensor is stored under.
        call: How the stored program is called; None where the artifact has no ONNX file.
    """

    model: str
    libraries: dict[str, str]
    files: dict[str, StoredFile]
    aliases: dict[str, str]
    call: CallForm | None

    def write(self, directory: Path) -> None:
        """Writes the manifest with a checksum of its own content."""
        content = {"format": FORMAT, "version": VERSION} | asdict(self)
        content["sha256"] = _digest(content)
        (directory / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads the manifest of an artifact.

        Raises:
            ArtifactError: the manifest is missing, damaged, of another version, or not from graphprune.
        """
        path = directory / MANIFEST
        content = _content(path)
        try:
            if content.get("sha256") != _digest(content):
                raise ValueError("its content does not have the checksum that it states")
            return _manifest_of(content)
        except READ_ERRORS as error:
            raise ArtifactError(f"{path} was edited or is damaged: {explained(error)}; {_REMEDY}") from error

    def check_files(self, directory: Path) -> None:
        """Compares every file with its size and checksum.

        Raises:
            ArtifactError: files are missing, truncated or changed; the message names them.
        """
        problems = [problem for name, file in self.files.items() if (problem := _damage(directory / name, file))]
        if problems:
            raise ArtifactError(f"the artifact {directory} is damaged:\n  {listed(problems)}\n{_REMEDY}.")


def is_artifact(directory: Path) -> bool:
    """Whether the directory has a manifest of graphprune, of any version and even if its files are damaged."""
    try:
        content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _damage(path: Path, expected: StoredFile) -> str:
    """Says what is wrong with a file; empty where the file is as it was written."""
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != expected.size_bytes:
        verb = "truncated" if size < expected.size_bytes else "changed"
        return f"{path.name} was {verb}: expected {expected.size_bytes} bytes, got {size}"
    found = StoredFile.of(path).sha256
    if found != expected.sha256:
        return f"{path.name} was changed: expected sha256 {expected.sha256:.16}..., got {found:.16}..."
    return ""


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        home = path.parent
        what = f"{home} has no {MANIFEST}" if home.is_dir() else f"there is no directory {home}"
        if home.exists() and not home.is_dir():
            what = f"{home} is no directory"
        raise ArtifactError(f"{what}; expected a directory written by compiled.save()")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {explained(error)}; {_REMEDY}") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise ArtifactError(f"{path} is not from graphprune: format is {shown(found)}, expected {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ArtifactError(
            f"{path} is of version {shown(content.get('version'))}, this graphprune reads version {VERSION}; load it "
            "with the graphprune that wrote it, or save the model again with this one"
        )
    return dict(content)


def _digest(content: Mapping[str, Any]) -> str:
    """Checksum of everything but the checksum itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _manifest_of(content: dict[str, Any]) -> Manifest:
    """Reads and checks every entry; raises one of `READ_ERRORS` where an entry is malformed."""
    form = None if content["call"] is None else _form_of(content["call"])
    files = {name: StoredFile(file["sha256"], file["size_bytes"]) for name, file in content["files"].items()}
    if any(Path(name).name != name or name == MANIFEST for name in files):
        raise ValueError("it names files outside of its directory, or itself")
    if not all(type(file.size_bytes) is int and isinstance(file.sha256, str) for file in files.values()):
        raise ValueError("the sizes and checksums of its files are not numbers and texts")
    strings = [content["model"], *content["libraries"].values(), *content["aliases"].values()]
    _names(strings)
    return Manifest(content["model"], dict(content["libraries"]), files, dict(content["aliases"]), form)


def _form_of(call: dict[str, Any]) -> CallForm:
    return CallForm(_names(call["parameters"]), _names(call["inputs"]), _names(call["outputs"]), call["returns"])


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"expected a list of names, got {value!r:.60}")
    return tuple(value)
