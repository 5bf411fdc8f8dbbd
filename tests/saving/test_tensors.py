from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graphprune
from graphprune.errors import ArtifactError
from graphprune.plan.names import named_tensors
from graphprune.research.networks import lenet5
from graphprune.saving.tensors import read_weights, write_weights
from tests.saving.artifacts import Tied, edit_manifest, saved_lenet


class Odd(nn.Module):
    """Tensors that are views of one storage, transposed, expanded, without dims, empty, and of several types."""

    def __init__(self) -> None:
        super().__init__()
        storage = torch.randn(4, 6)
        self.weight = nn.Parameter(storage.T)
        self.register_buffer("first", storage[:2])
        self.register_buffer("second", storage[2:])
        self.register_buffer("constant", torch.ones(1).expand(5))
        self.register_buffer("hidden", torch.arange(3), persistent=False)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.register_buffer("float16", torch.randn(3).half())
        self.register_buffer("brain16", torch.randn(3).bfloat16())
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("none", None)


def test_tensors_of_every_form_come_back(tmp_path: Path) -> None:
    module, other = Odd(), Odd()
    other.get_buffer("hidden").zero_()
    assert write_weights(module, tmp_path / "w") == {}
    read_weights(other, tmp_path / "w", {})
    for name, tensor in named_tensors(module).items():
        assert torch.equal(other.state_dict(keep_vars=True).get(name, other.get_buffer("hidden")), tensor)


def test_a_tied_tensor_is_stored_once_and_read_into_all_of_its_names(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    aliases = write_weights(module, tmp_path / "w")
    assert aliases["head.weight"] == "embedding.weight"
    assert aliases["second.0.weight"] == "first.0.weight"
    assert set(load_file(tmp_path / "w")).isdisjoint(aliases)
    read_weights(other, tmp_path / "w", aliases)
    assert torch.equal(other.head.weight, module.head.weight)
    assert other.head.weight is other.embedding.weight


def test_a_tie_on_one_side_only_is_named_and_nothing_is_read(tmp_path: Path) -> None:
    tied, loose = Tied(), Tied(tie=False)
    before = {name: tensor.clone() for name, tensor in loose.state_dict().items()}
    aliases = write_weights(tied, tmp_path / "tied")
    with pytest.raises(ArtifactError, match=r"head\.weight and embedding\.weight: tied in the file, two tensors in"):
        read_weights(loose, tmp_path / "tied", aliases)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loose.state_dict().items())
    aliases = write_weights(loose, tmp_path / "loose")
    with pytest.raises(ArtifactError, match=r"head\.weight and embedding\.weight: tied in the model, two tensors in"):
        read_weights(tied, tmp_path / "loose", aliases)


def test_a_type_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("odd", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(ArtifactError, match="the weights cannot be stored"):
        write_weights(module, tmp_path / "w")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return saved_lenet().unpack(tmp_path / "damaged")


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
def test_weights_that_do_not_fit_the_plan_are_named(damaged: Path, name: str) -> None:
    change, message = WRONG[name]
    tensors = load_file(damaged / "weights.safetensors")
    change(tensors)
    save_file(tensors, damaged / "weights.safetensors")
    edit_manifest(damaged, lambda content: None)
    with pytest.raises(ArtifactError, match=message):
        graphprune.load(damaged, lenet5())


def test_a_model_with_other_sizes_that_did_not_shrink_is_named(damaged: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        graphprune.load(damaged, lenet5(classes=11))
    assert "weights.safetensors does not fit the model, pruned by the plan" in str(raised.value)
    assert "classifier.fc2.bias: expected float32 (11,) (model), got float32 (10,) (file)" in str(raised.value)
    assert "Give an instance built with the arguments of the model that was compiled" in str(raised.value)


def test_what_is_no_safetensors_file_is_refused(damaged: Path) -> None:
    for data in (b"", b"\x80\x04not tensors", b"\xff" * 64):
        (damaged / "weights.safetensors").write_bytes(data)
        edit_manifest(damaged, lambda content: None)
        with pytest.raises(ArtifactError, match=r"weights\.safetensors cannot be read"):
            graphprune.load(damaged, lenet5())


def test_a_tie_to_nothing_is_refused(damaged: Path) -> None:
    edit_manifest(damaged, lambda content: content.update(aliases={"a": "b"}))
    with pytest.raises(ArtifactError, match=r"weights\.safetensors lacks the tied tensors b"):
        graphprune.load(damaged, lenet5())


def test_tensors_that_were_dropped_since_are_left_out_and_a_tied_one_keeps_its_other_name(tmp_path: Path) -> None:
    stored, smaller = Tied(), Tied()
    aliases = write_weights(stored, tmp_path / "w")
    weight = smaller.head.weight
    smaller.embedding = nn.Embedding(1, 1)
    del smaller.embedding.weight
    with pytest.raises(ArtifactError, match=r"embedding\.weight: the model has no such tensor"):
        read_weights(smaller, tmp_path / "w", aliases)
    read_weights(smaller, tmp_path / "w", aliases, {"embedding.weight"})
    assert smaller.head.weight is weight and torch.equal(weight, stored.head.weight)
