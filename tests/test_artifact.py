from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graphprune
from graphprune import artifact, manifest
from graphprune.compiled import Compiled
from graphprune.errors import ArtifactError, ExportError, OptionError
from graphprune.networks import lenet5
from graphprune.plan import named_tensors
from graphprune.program import Example
from graphprune.runtime import OnnxModule

FILES = {"manifest.json", "model.onnx", "plan.json", "report.json", "report.txt", "weights.safetensors"}


class Tied(nn.Module):
    """The embedding is the head, and one block is used twice under two names."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.first = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        self.second = self.first
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.scale: Tensor
        self.head = nn.Linear(8, 11, bias=False)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).mean(1)
        x = x + self.second(self.first(x)) * self.scale
        out: Tensor = self.head(x)
        return out


class Attention(nn.Module):
    """Keyword inputs, constants, and nested outputs."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.hidden, self.out = nn.Linear(16, 24), nn.Linear(24, 5)
        self.activation = activation

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, gain: float = 1.0, flag: bool = False
    ) -> dict[str, Any]:
        attended, _ = self.attention(x, x, x, key_padding_mask=mask, need_weights=False)
        hidden = self.activation(self.hidden(self.norm(x + attended))) * gain
        scores = self.out(hidden).mean(1)
        return {"scores": scores, "rest": (x[:, 0], [scores.argmax(-1), None])}


ATTENTION_INPUT = {"x": torch.randn(3, 6, 16), "mask": torch.zeros(3, 6, dtype=torch.bool), "gain": 2.0, "flag": True}


def compiled_and_trained(model: nn.Module, example: Any, **options: Any) -> Compiled:
    """One step of training after pruning, so that the weights are no longer those of the model."""
    compiled = graphprune.compile(model, example, sparsity=0.5, **options)
    module, inputs = compiled.module.train(), Example.of(example)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    sum_of(module(*inputs.args, **inputs.kwargs)).backward()
    optimizer.step()
    return compiled


def sum_of(outputs: Any) -> Tensor:
    return (outputs if isinstance(outputs, Tensor) else outputs["scores"]).square().mean()


def scores_loss(outputs: Any, _: Any) -> Tensor:
    return sum_of(outputs)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def lenet(home: Path) -> tuple[Compiled, Path]:
    torch.manual_seed(0)
    compiled = compiled_and_trained(lenet5(), torch.randn(4, 1, 28, 28), schedule="one-shot")
    return compiled, compiled.save(home / "lenet")


@pytest.fixture(scope="module")
def tied(home: Path) -> tuple[Compiled, Path]:
    torch.manual_seed(0)
    compiled = compiled_and_trained(Tied(), torch.randint(0, 11, (4, 6)))
    return compiled, compiled.save(home / "tied")


@pytest.fixture(scope="module")
def attention(home: Path) -> tuple[Compiled, Path]:
    torch.manual_seed(0)
    compiled = compiled_and_trained(Attention(), ATTENTION_INPUT, loss=scores_loss, schedule="one-shot")
    return compiled, compiled.save(home / "attention")


@pytest.fixture
def damaged(lenet: tuple[Compiled, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(lenet[1], tmp_path / "damaged"))


def assert_same_outputs(first: Any, second: Any, tolerance: float = 1e-4) -> None:
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same_outputs(first[key], second[key], tolerance)
    elif isinstance(first, (list, tuple)):
        for one, other in zip(first, second, strict=True):
            assert_same_outputs(one, other, tolerance)
    else:
        assert first is None


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    one, other = named_tensors(first), named_tensors(second)
    assert list(one) == list(other)
    assert list(first.state_dict()) == list(second.state_dict())
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
def test_lenet_round_trip(lenet: tuple[Compiled, Path], batch: int) -> None:
    compiled, path = lenet
    x = torch.randn(batch, 1, 28, 28)
    loaded, stored = graphprune.load(path, lenet5()), graphprune.load(path)
    assert_same_weights(compiled.module, loaded)
    with torch.no_grad():
        expected = compiled.module.eval()(x)
        assert torch.equal(loaded.eval()(x), expected)
        assert_same_outputs(stored(x), expected)


@pytest.mark.parametrize("batch", [1, 5])
def test_tied_weights_are_stored_once_and_stay_tied(tied: tuple[Compiled, Path], batch: int) -> None:
    compiled, path = tied
    ids = torch.randint(0, 11, (batch, 6))
    assert "head.weight" not in load_file(path / "weights.safetensors")
    loaded, stored = graphprune.load(path, Tied()), graphprune.load(path)
    assert_same_weights(compiled.module, loaded)
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("embedding.weight")
    with torch.no_grad():
        expected = compiled.module.eval()(ids)
        assert torch.equal(loaded.eval()(ids), expected)
        assert_same_outputs(stored(ids), expected)


@pytest.mark.parametrize("batch", [1, 5])
def test_attention_with_keywords_round_trip(attention: tuple[Compiled, Path], batch: int) -> None:
    compiled, path = attention
    mask = torch.rand(batch, 6) > 0.7
    mask[:, 0] = False
    inputs = {"x": torch.randn(batch, 6, 16), "mask": mask, "gain": 2.0, "flag": True}
    loaded, stored = graphprune.load(path, Attention()), graphprune.load(path)
    assert_same_weights(compiled.module, loaded)
    with torch.no_grad():
        expected = compiled.module.eval()(**inputs)
        assert_same_outputs(loaded.eval()(**inputs), expected, 0.0)
        assert_same_outputs(stored(**inputs), expected)


def test_the_loaded_module_trains(tied: tuple[Compiled, Path]) -> None:
    module = graphprune.load(tied[1], Tied())
    optimizer = torch.optim.Adam(module.parameters())
    before = copy.deepcopy(module.state_dict())
    module(torch.randint(0, 11, (4, 6))).square().mean().backward()
    optimizer.step()
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]
    assert {"embedding.weight", "head.weight", "first.0.weight"} <= set(changed)
    assert module.get_parameter("head.weight") is module.get_parameter("embedding.weight")


def test_the_fresh_model_is_not_changed_and_gives_mode_and_requires_grad(tied: tuple[Compiled, Path]) -> None:
    model = Tied().eval()
    model.first[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    module = graphprune.load(tied[1], model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training and not module.training
    assert not module.get_parameter("first.0.weight").requires_grad
    assert module.get_parameter("first.0.bias").requires_grad


def test_saving_changes_nothing(lenet: tuple[Compiled, Path], tmp_path: Path) -> None:
    module = lenet[0].module.train()
    before = copy.deepcopy(module.state_dict())
    random_state = torch.get_rng_state()
    lenet[0].save(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_directory_holds_the_six_files_and_the_manifest_describes_them(tied: tuple[Compiled, Path]) -> None:
    compiled, path = tied
    assert {file.name for file in path.iterdir()} == FILES
    content = json.loads((path / "manifest.json").read_text())
    assert (content["format"], content["version"]) == ("graphprune-artifact", 1)
    assert content["libraries"] == {"graphprune": graphprune.__version__, "torch": str(torch.__version__)}
    assert set(content["files"]) == FILES - {"manifest.json"}
    for name, file in content["files"].items():
        data = (path / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    assert content["aliases"]["head.weight"] == "embedding.weight"
    assert (path / "plan.json").read_text() == compiled.plan.to_json()
    assert (path / "report.txt").read_text().rstrip("\n") == str(compiled.report)
    report = json.loads((path / "report.json").read_text())
    assert report["costs"]["params"] == list(compiled.report.costs["params"])
    assert report["onnx"]["batch"] == "dynamic" and "path" not in report["onnx"]
    modes = {file.stat().st_mode for file in path.iterdir()}
    assert len(modes) == 1


def test_no_file_is_or_holds_a_pickle(lenet: tuple[Compiled, Path], attention: tuple[Compiled, Path]) -> None:
    for path in (lenet[1], attention[1]):
        for file in path.iterdir():
            data = file.read_bytes()
            assert not zipfile.is_zipfile(file)
            assert b"PK\x03\x04" not in data and b".pkl" not in data and b"pickle" not in data
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, AttributeError)):
                pickle.loads(data)


def test_neither_saving_nor_loading_uses_pickle(
    lenet: tuple[Compiled, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read or written")

    for home, name in [(torch, "load"), (torch, "save"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(home, name, refuse)
    graphprune.load(lenet[1])
    graphprune.load(lenet[1], lenet5())


def test_an_artifact_is_replaced_and_a_new_directory_is_made_with_its_parents(
    lenet: tuple[Compiled, Path], tmp_path: Path
) -> None:
    compiled, target = lenet[0], tmp_path / "deep" / "down"
    assert compiled.save(str(target)) == target
    (target / "report.txt").write_text("edited")
    compiled.save(target)
    assert isinstance(graphprune.load(target), OnnxModule)
    assert [entry.name for entry in target.parent.iterdir()] == ["down"]


def write_into(target: Path, name: str) -> None:
    target.mkdir(exist_ok=True)
    (target / name).write_text("mine")


@pytest.mark.parametrize("name", ["thesis.txt", "plan.json", "manifest.json", "model.onnx.mine"])
def test_a_directory_with_foreign_files_stays_as_it_is(lenet: tuple[Compiled, Path], tmp_path: Path, name: str) -> None:
    target = tmp_path / "mine"
    write_into(target, name)
    with pytest.raises(ArtifactError, match=rf"holds files that are not of an artifact(.|\n)*{name}"):
        lenet[0].save(target)
    assert (target / name).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_an_artifact_with_a_foreign_file_or_folder_stays_as_it_is(lenet: tuple[Compiled, Path], damaged: Path) -> None:
    write_into(damaged, "notes.txt")
    write_into(damaged / "model.onnx.d", "x")
    with pytest.raises(ArtifactError, match=r"model\.onnx\.d\n  notes\.txt"):
        lenet[0].save(damaged)
    assert {entry.name for entry in damaged.iterdir()} == FILES | {"notes.txt", "model.onnx.d"}


def test_a_file_in_the_way_is_refused(lenet: tuple[Compiled, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="is a file; give the name of a directory"):
        lenet[0].save(tmp_path / "file")
    with pytest.raises(ArtifactError, match="cannot be written"):
        lenet[0].save(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_and_a_link_are_taken(lenet: tuple[Compiled, Path], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    lenet[0].save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {entry.name for entry in (tmp_path / "real").iterdir()} == FILES


def test_a_failed_export_leaves_the_old_artifact(
    lenet: tuple[Compiled, Path], damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ExportError("no")

    before = {file.name: file.read_bytes() for file in damaged.iterdir()}
    monkeypatch.setattr(Compiled, "export_onnx", fail)
    for target in (damaged, damaged.parent / "new"):
        with pytest.raises(ExportError):
            lenet[0].save(target)
    assert {file.name: file.read_bytes() for file in damaged.iterdir()} == before
    assert list(damaged.parent.iterdir()) == [damaged]


def test_a_failed_rename_brings_the_old_artifact_back(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, old, rename = damaged.parent / "draft", damaged.parent / "old", os.rename
    draft.mkdir()

    def fail(source: Path, target: Path) -> None:
        if source == draft:
            raise OSError("disk on fire")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="disk on fire"):
        artifact._move_into_place(draft, damaged, old)
    assert {file.name for file in damaged.iterdir()} == FILES


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["stored program", "trainable module"])
def load(request: pytest.FixtureRequest) -> Callable[[Path], nn.Module]:
    return graphprune.load if request.param == "stored program" else lambda path: graphprune.load(path, lenet5())


Load = Callable[[Path], nn.Module]


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


def test_all_damaged_files_are_named_at_once(damaged: Path) -> None:
    (damaged / "report.txt").unlink()
    (damaged / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError) as raised:
        graphprune.load(damaged)
    assert "report.txt is missing" in str(raised.value) and "model.onnx was truncated" in str(raised.value)
    assert "save the artifact again" in str(raised.value)


def test_what_is_no_artifact_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no directory .*nothing; expected a directory written by"):
        load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json; expected a directory written by"):
        load(tmp_path)
    write_into(tmp_path, "file")
    with pytest.raises(ArtifactError, match="there is no directory"):
        load(tmp_path / "file")


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"format": "onnx"}', '"graphprune-artifact"'])
def test_a_foreign_manifest_is_refused(load: Load, damaged: Path, text: str) -> None:
    (damaged / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"is not from graphprune: format is .*, expected 'graphprune-artifact'"):
        load(damaged)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"[" * 100_000, b"{", b'{"format": "graphprune-art'])
def test_an_unreadable_manifest_is_refused(load: Load, damaged: Path, data: bytes) -> None:
    (damaged / "manifest.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"manifest\.json is truncated or damaged"):
        load(damaged)


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Edits the manifest; ``seal`` also updates its checksums, as only someone who means to can."""
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    if seal:
        for name in FILES & set(content["files"]) if isinstance(content.get("files"), dict) else ():
            stored = manifest.StoredFile.of(path / name)
            content["files"][name] = {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
        content["sha256"] = manifest._digest(content)
    (path / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("version", [0, 2, "1", None, {}])
def test_another_version_is_refused(load: Load, damaged: Path, version: Any) -> None:
    edit_manifest(damaged, lambda content: content.update(version=version))
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
def test_absurd_content_of_the_manifest_is_refused(load: Load, damaged: Path, name: str) -> None:
    edit_manifest(damaged, ABSURD[name])
    with pytest.raises(ArtifactError, match=r"manifest\.json was edited or is damaged"):
        load(damaged)


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a file is not listed": lambda content: content["files"].pop("plan.json"),
    "a listed file is missing": lambda content: content["files"].update(other={"sha256": "", "size_bytes": 1}),
    "another input": lambda content: content["call"].update(inputs=["other"]),
    "one more output": lambda content: content["call"].update(outputs=["output", "other"]),
    "structure of a second output": lambda content: content["call"].update(returns={"tensor": 1}),
    "structure of a text": lambda content: content["call"].update(returns={"tensor": "a"}),
    "structure of no kind": lambda content: content["call"].update(returns={"set": []}),
    "structure without an output": lambda content: content["call"].update(returns=None),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_is_refused(load: Load, damaged: Path, name: str) -> None:
    edit_manifest(damaged, FORGED[name])
    with pytest.raises(ArtifactError):
        load(damaged)


def test_a_plan_that_is_none_is_refused_even_with_its_checksum(load: Load, damaged: Path) -> None:
    (damaged / "plan.json").write_text("{}")
    edit_manifest(damaged, lambda content: None)
    with pytest.raises(ArtifactError, match=r"plan\.json: not a graphprune plan"):
        load(damaged)


def test_an_onnx_file_that_is_none_is_refused_even_with_its_checksum(load: Load, damaged: Path) -> None:
    (damaged / "model.onnx").write_bytes(b"not a model")
    edit_manifest(damaged, lambda content: None)
    with pytest.raises(ArtifactError, match=r"onnxruntime cannot load .*model\.onnx"):
        load(damaged)


# --- weights and models that do not fit -------------------------------------------------------------------------------


def with_weights(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path / "weights.safetensors")
    change(tensors)
    save_file(tensors, path / "weights.safetensors")
    edit_manifest(path, lambda content: None)


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda own: own.pop("classifier.fc1.bias"), r"classifier\.fc1\.bias: the file has no such tensor"),
    "foreign": (lambda own: own.update(other=torch.ones(1)), "other: the model has no such tensor"),
    "shape": (
        lambda own: own.update({"classifier.fc1.bias": torch.ones(3)}),
        r"classifier\.fc1\.bias: expected float32 \(\d+,\) \(model\), got float32 \(3,\) \(file\)",
    ),
    "type": (
        lambda own: own.update({"classifier.fc2.bias": torch.ones(10).half()}),
        r"classifier\.fc2\.bias: expected float32 \(10,\) \(model\), got float16 \(10,\) \(file\)",
    ),
    "values": (
        lambda own: own["classifier.fc2.bias"].add_(0.5),
        r"does not compute what the artifact's model\.onnx computes: an output differs by 0\.5",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit_are_named(damaged: Path, name: str) -> None:
    change, message = WRONG[name]
    with_weights(damaged, change)
    with pytest.raises(ArtifactError, match=message):
        graphprune.load(damaged, lenet5())


def test_weights_that_are_no_safetensors_are_refused(damaged: Path) -> None:
    (damaged / "weights.safetensors").write_bytes(b"\x80\x04not tensors")
    edit_manifest(damaged, lambda content: None)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors cannot be read"):
        graphprune.load(damaged, lenet5())


def test_a_tie_to_nothing_is_refused(damaged: Path) -> None:
    edit_manifest(damaged, lambda content: content.update(aliases={"a": "b"}))
    with pytest.raises(ArtifactError, match=r"weights\.safetensors lacks the tied tensors b"):
        graphprune.load(damaged, lenet5())


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "classes": (
        lambda: lenet5(classes=11),
        r"weights\.safetensors does not fit the model(.|\n)*classifier\.fc2\.weight",
    ),
    "channels": (lambda: lenet5((3, 28, 28)), r"plan\.json: the plan does not fit the model"),
    "type": (lambda: lenet5().double(), r"plan\.json: the plan does not fit the model"),
    "class": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), r"plan\.json: the plan does not fit the model"),
    "width": (lambda: Attention(), r"plan\.json: the plan does not fit the model: it was made for ConvNet, this Atten"),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_refused(lenet: tuple[Compiled, Path], name: str) -> None:
    build, message = MODELS[name]
    with pytest.raises(ArtifactError, match=message):
        graphprune.load(lenet[1], build())


def test_a_model_that_computes_otherwise_is_refused(attention: tuple[Compiled, Path]) -> None:
    with pytest.raises(
        ArtifactError, match=r"does not compute what the artifact's model\.onnx computes: an output diff"
    ):
        graphprune.load(attention[1], Attention(activation=nn.functional.gelu))


def test_a_model_whose_ties_are_not_set_is_refused(tied: tuple[Compiled, Path]) -> None:
    with pytest.raises(ArtifactError):
        graphprune.load(tied[1], Tied(tie=False))


@pytest.mark.parametrize("model", [lenet5, "lenet5", {}])
def test_the_model_has_to_be_an_instance(lenet: tuple[Compiled, Path], model: Any) -> None:
    with pytest.raises(OptionError, match="give an instance of the class that was compiled, or nothing"):
        graphprune.load(lenet[1], model)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu(lenet: tuple[Compiled, Path]) -> Iterator[Compiled]:
    compiled = lenet[0]
    compiled.module.cuda()
    yield compiled
    compiled.module.cpu()


@pytest.mark.cuda
def test_a_module_trained_on_a_gpu_verifies_saves_and_loads(on_gpu: Compiled, tmp_path: Path) -> None:
    x = torch.randn(5, 1, 28, 28, device="cuda")
    assert on_gpu.verify().max_abs_error < 1e-2
    path = on_gpu.save(tmp_path / "saved")
    stored, loaded = graphprune.load(path), graphprune.load(path, lenet5().cuda())
    assert isinstance(stored, OnnxModule)
    assert {tensor.device.type for tensor in loaded.parameters()} == {"cuda"}
    with torch.no_grad():
        expected = on_gpu.module.eval()(x)
        assert_same_outputs(loaded.eval()(x), expected)
        assert_same_outputs(stored(x), expected, 1e-2)
        assert_same_outputs(graphprune.load(path, lenet5()).eval()(x.cpu()), expected.cpu(), 1e-2)
