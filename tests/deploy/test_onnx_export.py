from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from graphprune.deploy import ExportResult, export_onnx, onnx_feeds, onnx_file, parity
from graphprune.errors import ExportError, InputError, OptionError
from graphprune.program.example import Example


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 6 * 6, 10)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1)
        logits: Tensor = self.head(features)
        return logits


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor, *, mask: Tensor, scale: Tensor) -> dict[str, Tensor]:
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return {"x": out.transpose(1, 2).flatten(2) * scale, "pooled": out.mean((1, 2))}


class SeveralOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None, list[Tensor]]:
        y = x + 1
        return x, y, None, [y, y.sum(1)]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        encoded: Tensor = self.layer(self.embedding(ids))
        return encoded.argmax(-1)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.ones(4))

    def forward(self, input: Tensor, factor: int, unused: Tensor, pair: dict[str, list[Tensor]]) -> Tensor:
        return input * self.input * factor + pair["left"][0] - pair["left"][1]


class Clash(nn.Module):
    """A weight and an inner value have the names that the input and the output get."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(4))
        self.output = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.input).relu() + self.output


class FixedBatch(nn.Module):
    """Runs at every even batch, but torch.export has to fix the batch to know the branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.shape[0] == 2 else x.sigmoid()


class OnlyTwo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 4) + 1


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if bool(x.sum() > 0) else x - 1


class SizeOutput(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x + 1, x.shape[0]


class NoOutput(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


class Counter(nn.Module):
    """Writes to a buffer and replaces another one, in eval mode too."""

    steps: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(1)
        self.last = self.steps + 1
        return x * 2


def run_file(path: Path, feeds: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


def numpy_state() -> np.ndarray[Any, Any]:
    state: Any = np.random.get_state(legacy=False)
    return np.array(state["state"]["key"])


@pytest.fixture(scope="module")
def conv_net() -> Any:
    torch.manual_seed(0)
    module = fx.symbolic_trace(ConvNet())
    module(torch.randn(16, 3, 8, 8))  # running statistics that are not the initial ones
    return module


@pytest.fixture(scope="module")
def conv_export(conv_net: Any, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export_onnx(conv_net, (torch.randn(2, 3, 8, 8),), {}, tmp_path_factory.mktemp("conv") / "conv.onnx")


def test_result_describes_the_file(conv_export: ExportResult) -> None:
    assert list(conv_export.path.parent.iterdir()) == [conv_export.path]
    assert conv_export.size_bytes == conv_export.path.stat().st_size
    proto = onnx.load(str(conv_export.path))
    assert conv_export.node_count == len(proto.graph.node) > 0
    assert conv_export.opset == proto.opset_import[0].version
    assert (conv_export.batch, conv_export.batch_reason) == ("dynamic", "")
    assert conv_export.batch_sizes == (2, 3)
    assert 0 <= conv_export.max_rel_error <= conv_export.tolerance == 1e-4
    assert conv_export.max_abs_error < 1e-4
    assert conv_export.to_dict()["path"] == str(conv_export.path)


def test_file_has_stable_names_and_no_paths(conv_export: ExportResult) -> None:
    proto = onnx.load(str(conv_export.path))
    assert conv_export.input_names == tuple(value.name for value in proto.graph.input) == ("input",)
    assert conv_export.output_names == tuple(value.name for value in proto.graph.output) == ("output",)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"head.weight", "head.bias"} <= {tensor.name for tensor in proto.graph.initializer}
    assert str(Path(torch.__file__).parent).encode() not in conv_export.path.read_bytes()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_dynamic_batch_is_really_dynamic(conv_net: Any, conv_export: ExportResult, batch_size: int) -> None:
    x = torch.randn(batch_size, 3, 8, 8)
    (got,) = run_file(conv_export.path, {"input": x.numpy()})
    with torch.no_grad():
        expected = conv_net.eval()(x)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5, rtol=0)


def test_export_leaves_no_trace(conv_net: Any, tmp_path: Path) -> None:
    conv_net.train()
    conv_net.norm.eval()
    conv_net.conv.weight.requires_grad_(False)
    conv_net.head.bias.grad = torch.ones(10)
    attributes = {name: set(part.__dict__) for name, part in conv_net.named_modules()}
    modes = {name: part.training for name, part in conv_net.named_modules()}
    stored = dict(conv_net.state_dict(keep_vars=True))
    values = {name: tensor.detach().clone() for name, tensor in stored.items()}
    needs_grad = {name: tensor.requires_grad for name, tensor in stored.items()}
    random_states = (torch.get_rng_state(), numpy_state(), random.getstate())

    # A batch of 1 is captured as 2; the file is dynamic all the same.
    result = export_onnx(conv_net, (torch.randn(1, 3, 8, 8, generator=torch.Generator()),), {}, tmp_path / "conv.onnx")

    assert (result.batch, result.batch_sizes) == ("dynamic", (1, 3))
    assert modes == {name: part.training for name, part in conv_net.named_modules()}
    assert attributes == {name: set(part.__dict__) for name, part in conv_net.named_modules()}
    after = dict(conv_net.state_dict(keep_vars=True))
    assert all(after[name] is tensor for name, tensor in stored.items())
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert needs_grad == {name: tensor.requires_grad for name, tensor in after.items()}
    assert torch.equal(conv_net.head.bias.grad, torch.ones(10))
    assert conv_net.head.weight.grad is None
    assert torch.equal(random_states[0], torch.get_rng_state())
    assert np.array_equal(random_states[1], numpy_state())
    assert random_states[2] == random.getstate()


def test_buffers_that_forward_changes_are_restored(tmp_path: Path) -> None:
    module = Counter()
    steps, last = module.steps, module.last
    export_onnx(module, (torch.randn(2, 3),), {}, tmp_path / "counter.onnx")
    assert module.steps is steps and module.last is last
    assert steps.item() == 0 and last.item() == 0


def test_attention_with_keyword_inputs(tmp_path: Path) -> None:
    module = Attention()
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    kwargs = {"scale": torch.rand(2, 1, 1), "mask": mask}
    result = export_onnx(module, (torch.randn(2, 5, 16),), kwargs, tmp_path / "attention.onnx")
    assert result.batch == "dynamic"
    assert result.input_names == ("x", "scale", "mask")
    assert result.output_names == ("x_1", "pooled")  # `x` is an input already
    x = torch.randn(5, 5, 16)
    more = {"mask": mask[:1].expand(5, 1, 5, 5).contiguous(), "scale": torch.rand(5, 1, 1)}
    feeds = onnx_feeds(module, Example((x,), more))
    out, pooled = run_file(result.path, feeds)
    with torch.no_grad():
        expected = module(x, **more)
    np.testing.assert_allclose(out, expected["x"].numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(pooled, expected["pooled"].numpy(), atol=1e-5, rtol=0)


def test_several_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = export_onnx(SeveralOutputs(), (torch.randn(2, 3),), {}, tmp_path / "several.onnx")
    assert result.output_names == ("output_0", "output_1", "output_3_0", "output_3_1")
    x = torch.randn(5, 3)
    outputs = run_file(result.path, {"input": x.numpy()})
    expected = (x, x + 1, x + 1, (x + 1).sum(1))
    for got, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-6, rtol=0)
    assert capsys.readouterr() == ("", "")


def test_integer_inputs_and_outputs(tmp_path: Path) -> None:
    # Frozen weights: torch would take a fused kernel here that ONNX has no name for.
    module = Tokens().eval().requires_grad_(False)
    result = export_onnx(module, (), {"ids": torch.randint(0, 10, (4, 6))}, tmp_path / "tokens.onnx")
    assert (result.input_names, result.batch_sizes) == (("ids",), (4, 3))
    ids = torch.randint(0, 10, (5, 6))
    (got,) = run_file(result.path, {"ids": ids.numpy()})
    np.testing.assert_array_equal(got, module(ids).numpy())


def test_nested_unused_and_constant_arguments(tmp_path: Path) -> None:
    pair = {"left": [torch.randn(2, 4), torch.randn(2, 4)]}
    args = (torch.randn(2, 4), 3, torch.randn(2, 7), pair)
    result = export_onnx(Nested(), args, {}, tmp_path / "nested.onnx")
    # `input` is the name of a parameter too.
    assert result.input_names == ("input", "unused", "pair_left_0", "pair_left_1")
    assert result.batch == "dynamic"


def test_inner_values_give_way_to_inputs_and_outputs(tmp_path: Path) -> None:
    result = export_onnx(Clash(), (torch.randn(2, 4),), {}, tmp_path / "clash.onnx")
    assert (result.input_names, result.output_names) == (("input",), ("output",))
    weights = {tensor.name for tensor in onnx.load(str(result.path)).graph.initializer}
    assert weights == {"input_inner", "output_inner"}


with_right_lstms = pytest.mark.skipif(
    torch.__version__ < "2.12", reason="torch.onnx before torch 2.12 gives an LSTM's result four dims"
)


@with_right_lstms
def test_lstm_exports_without_warnings_and_without_a_trace(tmp_path: Path) -> None:
    module = nn.LSTM(4, 8, batch_first=True)
    flat = list(module._flat_weights)
    result = export_onnx(module, (torch.randn(2, 5, 4),), {}, tmp_path / "lstm.onnx")
    assert result.batch == "dynamic"
    assert all(now is before for now, before in zip(module._flat_weights, flat, strict=True))


REFUSAL = "ValueError" if torch.__version__ >= "2.11" else "UserError"
"""What torch.export raises where code decides by a size that should be free."""


@pytest.mark.parametrize(
    ("module", "dynamic_batch", "reason"),
    [
        (FixedBatch(), True, f"torch.export cannot leave it free: {REFUSAL}"),
        (OnlyTwo(), True, "the module itself fails at batch 3: RuntimeError"),
        (nn.ReLU(), False, "dynamic_batch=False"),
    ],
)
def test_static_batch_says_why(
    module: nn.Module, dynamic_batch: bool, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "static.onnx"
    result = export_onnx(module, (torch.randn(2, 4),), {}, path, dynamic_batch=dynamic_batch)
    assert result.batch == "static"
    assert reason in result.batch_reason
    assert result.batch_sizes == (2,)
    assert onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    warned = [record for record in caplog.records if record.name == "graphprune.deploy.onnx_export"]
    assert bool(warned) == dynamic_batch


STEPS_FIRST = """
import sys
import torch
from graphprune.deploy import export_onnx
result = export_onnx(torch.nn.LSTM(4, 8), (torch.randn(2, 1, 4),), {}, sys.argv[1])
print(result.batch, result.batch_sizes, result.batch_reason)
"""


@with_right_lstms
def test_steps_that_come_first_are_fixed_by_the_file(tmp_path: Path) -> None:
    """In a process of its own: where its compiler is loaded, torch takes an LSTM apart and fixes the steps itself."""
    command = [sys.executable, "-c", STEPS_FIRST, str(tmp_path / "static.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.startswith("static (2,) onnxruntime cannot run the exported file at batch 3")


def test_half_precision_has_its_own_tolerance(tmp_path: Path) -> None:
    result = export_onnx(nn.Linear(8, 4).half(), (torch.randn(2, 8).half(),), {}, tmp_path / "half.onnx")
    assert result.max_rel_error <= result.tolerance == 1e-2


def test_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        export_onnx(SeveralOutputs(), (torch.randn(2, 3),), {}, tmp_path / name / "model.onnx")
    assert (tmp_path / "first/model.onnx").read_bytes() == (tmp_path / "second/model.onnx").read_bytes()


def test_tampered_file_is_refused_and_an_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(program: Any, path: Path, inputs: Any) -> onnx.ModelProto:
        proto = onnx_file.write_checked(program, path, inputs)
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "weight")
        changed = onnx.numpy_helper.to_array(weight).copy()
        changed[0, 0] += 0.1
        weight.CopyFrom(onnx.numpy_helper.from_array(changed, "weight"))
        onnx.save(proto, str(path))
        return proto

    monkeypatch.setattr("graphprune.deploy.onnx_export.write_checked", tampered)
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(ExportError) as caught:
        export_onnx(nn.Linear(4, 3), (torch.randn(2, 4),), {}, target)
    message = str(caught.value)
    assert "output 'output' at batch 2: expected" in message and "output 'output' at batch 3: expected" in message
    assert "tolerance 1e-04" in message
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_checker_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise onnx.checker.ValidationError("no such operator")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ExportError, match=r"onnx.checker .* no such operator"):
        export_onnx(nn.ReLU(), (torch.randn(2, 4),), {}, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_module_that_cannot_be_traced(tmp_path: Path) -> None:
    module = DataDependent().train()
    with pytest.raises(ExportError, match="cannot export DataDependent: "):
        export_onnx(module, (torch.randn(2, 4),), {}, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert module.training


def test_own_eval_of_a_module_is_not_called(tmp_path: Path) -> None:
    class RefusesModes(nn.ReLU):
        def train(self, mode: bool = True) -> RefusesModes:
            raise NotImplementedError

    module = RefusesModes()
    export_onnx(module, (torch.randn(2, 4),), {}, tmp_path / "model.onnx")
    assert module.training


def test_weights_beside_the_model_move_with_it(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((4, 3), dtype=np.float32), "weight")
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["s77", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["s77", 3])
    graph = onnx.helper.make_graph([node], "large", [x], [y], [weight])

    class LargeProgram:
        def save(self, path: str, *, external_data: bool) -> None:
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
            name = f"{Path(path).name}.data"
            onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)

    program: Any = LargeProgram()
    draft = tmp_path / "draft" / "large.onnx"
    draft.parent.mkdir()
    proto = onnx_file.write_checked(program, draft, ["x"])
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    size_bytes = onnx_file.publish(draft, tmp_path / "large.onnx")
    written = [tmp_path / "large.onnx", tmp_path / "large.onnx.data"]
    assert all(file.is_file() for file in written) and not list(draft.parent.iterdir())
    assert size_bytes == sum(file.stat().st_size for file in written)
    (product,) = run_file(written[0], {"x": np.ones((5, 4), dtype=np.float32)})
    np.testing.assert_array_equal(product, np.full((5, 3), 4.0))


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    module = nn.Linear(4, 3)
    with pytest.raises(OptionError, match="is a directory"):
        export_onnx(module, (x,), {}, tmp_path)
    with pytest.raises(OptionError, match="there is no directory"):
        export_onnx(module, (x,), {}, tmp_path / "missing" / "model.onnx")
    if Path("/proc/self").exists():  # where not even root may write
        with pytest.raises(OptionError, match=r"cannot export to /proc/model\.onnx: /proc cannot be written to"):
            export_onnx(module, (x,), {}, "/proc/model.onnx")
    with pytest.raises(InputError, match="fails on its example input: RuntimeError"):
        export_onnx(module, (torch.randn(2, 5),), {}, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="batch of 0"):
        export_onnx(module, (torch.randn(0, 4),), {}, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"bfloat16.*float32"):
        export_onnx(module.bfloat16(), (x.bfloat16(),), {}, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the module returns int; an ONNX file returns tensors only"):
        export_onnx(SizeOutput(), (torch.randn(2, 4),), {}, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="the module returns no tensor"):
        export_onnx(NoOutput(), (torch.randn(2, 4),), {}, tmp_path / "model.onnx")


def test_positional_arguments_that_forward_does_not_take() -> None:
    with pytest.raises(InputError, match="forward takes 1 positional"):
        onnx_feeds(nn.ReLU(), Example((torch.ones(1), torch.ones(1)), {}))


@pytest.mark.parametrize(
    ("expected", "got", "passes"),
    [
        ([1.0, 0.0], [1.00005, 0.0], True),  # 5e-5 of the scale
        ([1.0, 0.0], [1.0, 0.0002], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.0, 1e-9], False),  # no scale to measure by
        ([float("nan"), float("-inf")], [float("nan"), float("-inf")], True),
        ([float("nan"), 1.0], [0.0, 1.0], False),
        ([float("inf"), 1.0], [float("-inf"), 1.0], False),
        ([1.0, 2.0], [1.0, 2.0, 3.0], False),
    ],
)
def test_comparison_of_one_output(expected: list[float], got: list[float], passes: bool) -> None:
    difference = parity._compare("output", torch.tensor(expected), np.array(got, dtype=np.float32), tolerance=1e-4)
    assert (difference.problem == "") == passes
    assert (difference.rel_error <= difference.tolerance) == passes


def test_reduced_precision_is_off_during_the_comparison_and_back_afterwards() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        with parity._full_float32():
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"  # type: ignore[attr-defined]
        assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_nodes_of_subgraphs_are_found() -> None:
    inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "inner", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    model = onnx.helper.make_model(onnx.helper.make_graph([outer], "outer", [], []))
    assert [node.op_type for node in onnx_file.all_nodes(model)] == ["If", "Identity", "Identity"]
