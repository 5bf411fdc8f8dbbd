from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.deploy import export_onnx
from graphprune.deploy.sessions import CPU, CUDA
from graphprune.errors import InputError, OptionError, UserError
from graphprune.plan.trees import encode_outputs
from graphprune.program.example import Example
from graphprune.saving.manifest import CallForm
from graphprune.saving.runtime import OnnxModule
from tests.saving.artifacts import assert_same_outputs, attention_inputs, saved_attention, saved_lenet


class Nested(nn.Module):
    """Positional and keyword arguments, nested, one of them a constant."""

    def forward(self, pair: tuple[Tensor, dict[str, Tensor]], factor: float, *, more: list[Tensor]) -> Any:
        return pair[0] * factor + pair[1]["k"], {"sum": more[0] - more[1], 3: [pair[0] > 0, None]}


def nested_example(batch: int) -> Example:
    first, key, one, other = torch.randn(4, batch, 4)
    return Example(((first, {"k": key}), 2.5), {"more": [one, other]})


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> OnnxModule:
    path = tmp_path_factory.mktemp("nested") / "nested.onnx"
    example = nested_example(2)
    exported = export_onnx(Nested(), example.args, example.kwargs, path)
    returns = encode_outputs(Nested()(*example.args, **example.kwargs))
    call = CallForm(("pair", "factor"), exported.input_names, exported.output_names, returns)
    return OnnxModule(path, call, example)


@pytest.fixture
def attention(tmp_path: Path) -> nn.Module:
    return graphprune.load(saved_attention().unpack(tmp_path / "saved"))


@pytest.fixture
def lenet(tmp_path: Path) -> nn.Module:
    return graphprune.load(saved_lenet().unpack(tmp_path / "saved"))


# --- calling ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_structures_go_in_and_come_out(nested: OnnxModule, batch: int) -> None:
    example = nested_example(batch)
    expected = Nested()(*example.args, **example.kwargs)
    assert_same_outputs(nested(*example.args, **example.kwargs), expected, 1e-6)
    assert_same_outputs(nested(factor=2.5, pair=example.args[0], **example.kwargs), expected, 1e-6)
    assert_same_outputs(nested(example.args[0], **example.kwargs), expected, 1e-6)  # the constant may be left out


@torch.no_grad()
def test_arguments_by_position_and_by_keyword_are_the_same(attention: nn.Module) -> None:
    inputs = attention_inputs(5)
    expected = attention(**inputs)
    assert_same_outputs(attention(inputs["x"], inputs["mask"]), expected, 0.0)
    assert_same_outputs(attention(inputs["x"], mask=inputs["mask"], gain=2.0), expected, 0.0)


@torch.no_grad()
def test_inputs_may_lie_anyhow_in_memory_and_outputs_are_writable(lenet: nn.Module) -> None:
    x = torch.randn(28, 28, 1, 3).permute(3, 2, 1, 0)
    out = lenet(x)
    assert torch.equal(out, lenet(x.contiguous()))
    out.add_(1)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "argument 'x' is missing; it was given when the model was compiled"),
        ((torch.ones(2, 1, 28, 28), 1), {}, "positional argument 1 was not given when the model was compiled"),
        ((), {"y": 1}, r"argument 'y' was not given when the model was compiled, .* it takes argument 'x'"),
        ((torch.ones(2, 1, 28, 28),), {"x": 1}, "argument 'x' is given twice, by position and by keyword"),
        ((torch.ones(2, 1, 28, 27),), {}, r"input 'input': expected shape \(batch, 1, 28, 28\), got \(2, 1, 28, 27\)"),
        ((torch.ones(1, 28, 28),), {}, r"input 'input': expected shape \(batch, 1, 28, 28\), got \(1, 28, 28\)"),
        (
            (torch.ones(2, 1, 28, 28).double(),),
            {},
            r"argument 'x': expected torch\.float32, got torch\.float64; convert",
        ),
        (([[1.0]],), {}, "argument 'x': expected a tensor, got list"),
        ((None,), {}, "argument 'x': expected a tensor, got NoneType"),
    ],
)
def test_what_cannot_go_in_is_named(
    lenet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lenet(*args, **kwargs)


@pytest.mark.parametrize("gain", [3.0, None, "2.0", torch.tensor(2.0), torch.ones(3)])
def test_a_constant_is_part_of_the_program(attention: nn.Module, gain: Any) -> None:
    with pytest.raises(InputError, match=r"argument 'gain': the program was made with 2\.0 and cannot take"):
        attention(**(attention_inputs(2) | {"gain": gain}))


def test_structures_that_differ_are_named(nested: OnnxModule) -> None:
    row = torch.ones(2, 4)
    more = [row, row]
    with pytest.raises(InputError, match=r"argument 'pair': expected a tuple of 2 values, got"):
        nested((row,), more=more)
    with pytest.raises(InputError, match=r"argument 'pair'\[1\]: expected a dict with the keys \['k'\], got"):
        nested((row, {"j": row}), more=more)
    with pytest.raises(InputError, match=r"argument 'more'\[1\]: expected a tensor, got int"):
        nested((row, {"k": row}), more=[row, 1])
    with pytest.raises(InputError, match=r"argument 'more': expected a list of 2 values, got tensor"):
        nested((row, {"k": row}), more=row)


def test_batches_that_differ_are_refused_by_onnxruntime_in_one_error(nested: OnnxModule) -> None:
    with pytest.raises(InputError, match="onnxruntime cannot run the program on inputs of the shapes"):
        nested((torch.ones(2, 4), {"k": torch.ones(3, 4)}), more=[torch.ones(2, 4), torch.ones(2, 4)])


# --- it does not train ------------------------------------------------------------------------------------------------


def test_it_is_in_evaluation_mode_for_good(lenet: nn.Module) -> None:
    assert not lenet.training
    assert lenet.eval() is lenet
    with pytest.raises(UserError, match=r"cannot be trained; load the artifact with model="):
        lenet.train()
    with pytest.raises(UserError, match=r"cannot be trained; load the artifact with model="):
        nn.Sequential(lenet).train()
    assert not lenet.training
    assert list(lenet.parameters()) == [] and lenet.state_dict() == {}


def test_a_backward_pass_says_what_to_do(attention: nn.Module) -> None:
    outputs = attention(**attention_inputs(2))
    assert outputs["scores"].requires_grad and not outputs["rest"][1][0].requires_grad
    with pytest.raises(UserError, match=r"cannot be trained; load the artifact with model="):
        outputs["scores"].sum().backward()
    inputs = attention_inputs(2)
    inputs["x"].requires_grad_()
    with pytest.raises(UserError, match=r"cannot be trained; load the artifact with model="):
        attention(**inputs)["scores"].sum().backward()
    with torch.no_grad():
        assert not attention(**inputs)["scores"].requires_grad


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_the_provider_is_named(lenet: nn.Module) -> None:
    assert isinstance(lenet, OnnxModule)
    assert lenet.provider == (CUDA if torch.cuda.is_available() else CPU)
    assert bool(lenet.provider_reason) == (lenet.provider == CPU)
    assert repr(lenet) == f"OnnxModule(input -> output, {lenet.provider})"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="provider='cuda' cannot run here"):
        OnnxModule(tmp_path / "x", CallForm((), (), (), None), Example((), {}), provider="cuda")


@pytest.mark.cuda
def test_outputs_come_back_to_the_device_of_the_inputs(lenet: nn.Module) -> None:
    x = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        there, here = lenet(x.cuda()), lenet(x)
    assert there.device.type == "cuda" and here.device.type == "cpu"
    assert_same_outputs(there.cpu(), here, 1e-3)
