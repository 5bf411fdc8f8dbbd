from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.compiled import Compiled
from graphprune.errors import ArtifactError, ExportError, OptionError
from graphprune.plan.names import named_tensors
from graphprune.research.networks import lenet5
from graphprune.saving import artifact
from graphprune.saving.runtime import OnnxModule
from graphprune.saving.tensors import write_weights
from tests.saving.artifacts import (
    FILES,
    Attention,
    Tied,
    assert_same_outputs,
    attention_inputs,
    saved_attention,
    saved_lenet,
    saved_tied,
    saved_tiny,
)


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    one, other = named_tensors(first), named_tensors(second)
    assert list(one) == list(other)
    assert list(first.state_dict()) == list(second.state_dict())
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
def test_lenet_round_trip(tmp_path: Path, batch: int) -> None:
    module, path = saved_lenet().compiled.module, saved_lenet().unpack(tmp_path / "saved")
    x = torch.randn(batch, 1, 28, 28)
    loaded, stored = graphprune.load(path, lenet5()), graphprune.load(path)
    assert_same_weights(module, loaded)
    with torch.no_grad():
        expected = module.eval()(x)
        assert torch.equal(loaded.eval()(x), expected)
        assert_same_outputs(stored(x), expected)


@pytest.mark.parametrize("batch", [1, 5])
def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path, batch: int) -> None:
    module, path = saved_tied().compiled.module, saved_tied().unpack(tmp_path / "saved")
    ids = torch.randint(0, 11, (batch, 6))
    loaded, stored = graphprune.load(path, Tied()), graphprune.load(path)
    assert_same_weights(module, loaded)
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("embedding.weight")
    with torch.no_grad():
        expected = module.eval()(ids)
        assert torch.equal(loaded.eval()(ids), expected)
        assert_same_outputs(stored(ids), expected)


@pytest.mark.parametrize("batch", [1, 5])
def test_attention_with_keywords_round_trip(tmp_path: Path, batch: int) -> None:
    module, path = saved_attention().compiled.module, saved_attention().unpack(tmp_path / "saved")
    inputs = attention_inputs(batch)
    loaded, stored = graphprune.load(path, Attention()), graphprune.load(path)
    assert_same_weights(module, loaded)
    with torch.no_grad():
        expected = module.eval()(**inputs)
        assert_same_outputs(loaded.eval()(**inputs), expected, 0.0)
        assert_same_outputs(stored(**inputs), expected)


def test_the_loaded_module_trains(tmp_path: Path) -> None:
    module = graphprune.load(saved_tied().unpack(tmp_path / "saved"), Tied())
    optimizer = torch.optim.Adam(module.parameters())
    before = copy.deepcopy(module.state_dict())
    module(torch.randint(0, 11, (4, 6))).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"embedding.weight", "head.weight", "first.0.weight"} <= changed
    assert module.get_parameter("head.weight") is module.get_parameter("embedding.weight")


def test_the_fresh_model_is_not_changed_and_gives_mode_and_requires_grad(tmp_path: Path) -> None:
    path = saved_tied().unpack(tmp_path / "saved")
    model = Tied().eval()
    model.first[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    module = graphprune.load(path, model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training and not module.training
    assert not module.get_parameter("first.0.weight").requires_grad
    assert module.get_parameter("first.0.bias").requires_grad


def test_saving_changes_nothing(tmp_path: Path) -> None:
    compiled = saved_tiny().compiled
    module = compiled.module.train()
    before = copy.deepcopy(module.state_dict())
    random_state = torch.get_rng_state()
    compiled.save(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_directory_holds_the_six_files_and_the_manifest_describes_them(tmp_path: Path) -> None:
    compiled, path = saved_tied().compiled, saved_tied().unpack(tmp_path / "saved")
    assert {file.name for file in path.iterdir()} == FILES
    content = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert (content["format"], content["version"]) == ("graphprune-artifact", 1)
    assert content["libraries"] == {"graphprune": graphprune.__version__, "torch": str(torch.__version__)}
    assert set(content["files"]) == FILES - {"manifest.json"}
    for name, file in content["files"].items():
        data = (path / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    assert content["aliases"]["head.weight"] == "embedding.weight"
    assert (path / "plan.json").read_text(encoding="utf-8") == compiled.plan.to_json()
    assert (path / "report.txt").read_text(encoding="utf-8").rstrip("\n") == str(compiled.report)
    report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    assert report["costs"]["params"] == list(compiled.report.costs["params"])
    assert report["onnx"]["batch"] == "dynamic"
    assert "path" not in report["onnx"]


def test_no_file_is_or_holds_a_pickle(tmp_path: Path) -> None:
    for name, saved in {"lenet": saved_lenet(), "attention": saved_attention()}.items():
        for file in saved.unpack(tmp_path / name).iterdir():
            data = file.read_bytes()
            assert not zipfile.is_zipfile(file)
            assert not any(mark in data for mark in (b"PK\x03\x04", b".pkl", b"pickle"))
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, AttributeError)):
                pickle.loads(data)


def test_neither_saving_nor_loading_uses_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read or written")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    path = saved_lenet().unpack(tmp_path / "saved")
    graphprune.load(path)
    module = graphprune.load(path, lenet5())
    write_weights(module, tmp_path / "weights.safetensors")


def test_an_artifact_is_replaced_and_a_new_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    compiled, target = saved_tiny().compiled, tmp_path / "deep" / "down"
    assert compiled.save(str(target)) == target
    assert len({file.stat().st_mode for file in target.iterdir()}) == 1
    (target / "report.txt").write_text("edited", encoding="utf-8")
    compiled.save(target)
    assert isinstance(graphprune.load(target), OnnxModule)
    assert [entry.name for entry in target.parent.iterdir()] == ["down"]


def write_into(target: Path, name: str) -> None:
    target.mkdir(exist_ok=True)
    (target / name).write_text("mine", encoding="utf-8")


@pytest.mark.parametrize("name", ["thesis.txt", "plan.json", "manifest.json", "model.onnx.mine"])
def test_a_directory_with_foreign_files_stays_as_it_is(tmp_path: Path, name: str) -> None:
    target = tmp_path / "mine"
    write_into(target, name)
    with pytest.raises(ArtifactError, match=rf"holds files that are not of an artifact(.|\n)*{name}"):
        saved_tiny().compiled.save(target)
    assert (target / name).read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_an_artifact_with_a_foreign_file_or_folder_stays_as_it_is(tmp_path: Path) -> None:
    path = saved_tiny().unpack(tmp_path / "saved")
    write_into(path, "notes.txt")
    write_into(path / "model.onnx.d", "x")
    with pytest.raises(ArtifactError, match=r"model\.onnx\.d\n  notes\.txt"):
        saved_tiny().compiled.save(path)
    assert {entry.name for entry in path.iterdir()} == FILES | {"notes.txt", "model.onnx.d"}


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is a file; give the name of a directory"):
        saved_tiny().compiled.save(tmp_path / "file")
    with pytest.raises(ArtifactError, match="cannot be written"):
        saved_tiny().compiled.save(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_an_empty_directory_and_a_link_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*given: Any) -> None:
        draft = given[-1]
        for name, data in saved_tiny().files.items():
            (draft / name).write_bytes(data)

    monkeypatch.setattr(artifact, "_write", write)  # what is written does not matter here
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    saved_tiny().compiled.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {entry.name for entry in (tmp_path / "real").iterdir()} == FILES


def test_a_failed_export_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ExportError("no")

    saved = saved_tiny()
    path = saved.unpack(tmp_path / "saved")
    monkeypatch.setattr(Compiled, "export_onnx", fail)
    for target in (path, tmp_path / "new"):
        with pytest.raises(ExportError):
            saved.compiled.save(target)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == saved.files
    assert list(tmp_path.iterdir()) == [path]


class Inverted(nn.Module):
    """With an operator that ONNX does not have."""

    def __init__(self, bend: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.head, self.bend = nn.Linear(4, 8), nn.Linear(8, 4), bend

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = self.bend(self.first(x))
        return {"out": torch.linalg.matrix_exp(self.head(hidden).view(-1, 2, 2)), "both": [x, x.argmax(1)]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_no_onnx_file_is_saved_without(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model: nn.Module = Inverted() if dtype is torch.float32 else nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    model, x = model.to(dtype), torch.randn(2, 4, dtype=dtype)
    compiled = graphprune.compile(model, x, sparsity=0.5, criterion="l1-norm")
    with pytest.raises(ExportError, match=r"save\(\.\.\., onnx=False\) leaves the ONNX file out"):
        compiled.save(tmp_path / "saved")
    path = compiled.save(tmp_path / "saved", onnx=False)
    names = {entry.name for entry in path.iterdir()}
    assert names == {*FILES} - {artifact.ONNX} | {artifact.OUTPUTS}
    assert json.loads((path / "report.json").read_text(encoding="utf-8"))["onnx"] is None
    loaded = graphprune.load(path, model)
    assert_same_weights(compiled.module, loaded)
    assert_same_outputs(loaded.eval()(x), compiled.module.eval()(x))
    with pytest.raises(ArtifactError, match=r"saved with onnx=False.*a fresh instance of (Inverted|Sequential)"):
        graphprune.load(path)
    if dtype is torch.float32:
        with pytest.raises(ArtifactError, match=r"what the artifact's outputs\.safetensors computes: an output diff"):
            graphprune.load(path, Inverted(torch.tanh))
    (path / artifact.OUTPUTS).unlink()
    with pytest.raises(ArtifactError, match=r"outputs\.safetensors is missing"):
        graphprune.load(path, model)


def test_outputs_that_share_memory_are_saved_too(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            out = self.last(torch.relu(self.first(x)))
            return out, out.view(-1, 2, 2), out

    compiled, x = graphprune.compile(Twice(), torch.randn(2, 4), sparsity=0.5, criterion="l1-norm"), torch.randn(3, 4)
    loaded = graphprune.load(compiled.save(tmp_path / "saved", onnx=False), Twice())
    assert_same_outputs(loaded.eval()(x), compiled.module.eval()(x))


def test_an_artifact_takes_the_place_of_one_without_an_onnx_file(tmp_path: Path) -> None:
    compiled = saved_lenet().compiled
    for onnx, other in ((False, artifact.ONNX), (True, artifact.OUTPUTS), (False, artifact.ONNX)):
        path = compiled.save(tmp_path / "saved", onnx=onnx)
        assert not (path / other).exists()
        graphprune.load(path, lenet5())
    with pytest.raises(OptionError, match="onnx='no': expected True or False"):
        compiled.save(tmp_path / "saved", onnx="no")  # type: ignore[arg-type]


def test_a_failed_rename_brings_the_old_artifact_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, draft, rename = saved_tiny().unpack(tmp_path / "saved"), tmp_path / "draft", os.rename
    draft.mkdir()

    def fail(source: Path, target: Path) -> None:
        if source == draft:
            raise OSError("disk on fire")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="disk on fire"):
        artifact._move_into_place(draft, path, tmp_path / "old")
    assert {file.name for file in path.iterdir()} == FILES


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ArtifactError, match="cannot be written"):
        saved_tiny().compiled.save("x" * 5000)
    with pytest.raises(ArtifactError, match=r"cannot be read|there is no directory"):
        graphprune.load("x" * 5000)


# --- models that are not the one --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [lenet5((3, 28, 28)), nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), Attention(), Tied()],
    ids=["channels", "layers", "arguments", "inputs"],
)
def test_another_model_is_refused(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(ArtifactError, match=r"plan\.json: the plan does not fit the model:"):
        graphprune.load(saved_lenet().unpack(tmp_path / "saved"), model)


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    """A plan fits any type, the weights do not."""
    refusal = r"weights\.safetensors does not fit(.|\n)*expected float64 .* got float32(.|\n)*in the same type"
    with pytest.raises(ArtifactError, match=refusal):
        graphprune.load(saved_lenet().unpack(tmp_path / "saved"), lenet5().double())


def test_a_model_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    path = saved_attention().unpack(tmp_path / "saved")
    with pytest.raises(
        ArtifactError, match=r"does not compute what the artifact's model\.onnx computes: an output diff"
    ):
        graphprune.load(path, Attention(activation=nn.functional.gelu))


def test_what_torch_compile_wraps_is_told_by_the_name_of_its_class(tmp_path: Path) -> None:
    path = saved_attention().unpack(tmp_path / "saved")
    loaded = graphprune.load(path, torch.compile(Attention()))  # type: ignore[arg-type]
    assert "_orig_mod" not in " ".join(loaded.state_dict())
    with pytest.raises(ArtifactError) as error:
        graphprune.load(path, torch.compile(Attention(activation=nn.functional.gelu)))  # type: ignore[arg-type]
    assert "Attention" in str(error.value) and "OptimizedModule" not in str(error.value)


@pytest.mark.parametrize("model", [lenet5, "lenet5", {}])
def test_the_model_has_to_be_an_instance(tmp_path: Path, model: Any) -> None:
    with pytest.raises(OptionError, match=r"directory=None: give the directory that compiled\.save\(\) wrote"):
        graphprune.load(None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"directory=Sequential\(.*: give the directory"):  # in one line
        graphprune.load(nn.Sequential(nn.Linear(2, 2)))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="give an instance of the class that was compiled, or nothing"):
        graphprune.load(saved_lenet().unpack(tmp_path / "saved"), model)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu() -> Iterator[Compiled]:
    compiled = saved_lenet().compiled
    compiled.module.cuda()
    yield compiled
    compiled.module.cpu()


@pytest.mark.cuda
def test_a_module_trained_on_a_gpu_verifies_saves_and_loads(on_gpu: Compiled, tmp_path: Path) -> None:
    x = torch.randn(5, 1, 28, 28, device="cuda")
    on_gpu.verify()
    path = on_gpu.save(tmp_path / "saved")
    stored, loaded = graphprune.load(path), graphprune.load(path, lenet5().cuda())
    assert isinstance(stored, OnnxModule)
    assert {tensor.device.type for tensor in loaded.parameters()} == {"cuda"}
    with torch.no_grad():
        expected = on_gpu.module.eval()(x)
        assert_same_outputs(loaded.eval()(x), expected)
        assert_same_outputs(stored(x), expected, 1e-2)
        assert_same_outputs(graphprune.load(path, lenet5()).eval()(x.cpu()), expected.cpu(), 1e-2)
