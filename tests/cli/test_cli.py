"""The command line: names of models, exit codes, messages, help, and what each command prints and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

import graphprune
from graphprune.cli import app
from graphprune.cli import demo as demo_command
from graphprune.cli.demo_run import DemoResult, DemoSettings, Figures
from graphprune.cli.model_names import build_model
from graphprune.deploy import Hardware, Latency, TimingResult
from graphprune.deploy.sessions import NodePlacement
from graphprune.errors import InternalError, OptionError
from graphprune.research.networks import lenet5
from graphprune.rounds.correction import Correction
from graphprune.verification.record import Verification

USER_CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def with_example():
    return Net(), torch.ones(2, 6)

ready = Net()

def fails():
    raise ValueError("no such\\nconfiguration")

def text():
    return "a model"

def needs(width):
    return Net()

number = 3

def batches():
    return [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(2)]

many = [(torch.randn(8, 6), torch.arange(8) % 3)]

def generated():
    yield from batches()

def loss(output, target):
    print("the loss was computed")
    return nn.functional.cross_entropy(output, target)
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeds(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuses(*arguments: str | Path) -> str:
    """The message on stderr, which has to be the only output."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("graphprune: error: ")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("graphprune: error: ").rstrip("\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, with what is imported from it forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def user_code(here: Path) -> Path:
    (here / "mynets.py").write_text(USER_CODE, encoding="utf-8")
    (here / "broken_nets.py").write_text("import torch\nimport a_module_that_nobody_has\n", encoding="utf-8")
    (here / "wrong_nets.py").write_text("1 / 0\n", encoding="utf-8")
    return here


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "lenet5-half"
    out = succeeds("compile", "paper:lenet5", "--sparsity", "0.5", "--schedule", "one-shot", "--out", directory)
    assert out.splitlines()[-1] == f"saved to {directory}"
    return directory


# --- help and exit codes ---------------------------------------------------------------------------------------------


def test_without_arguments_the_help_is_printed() -> None:
    assert succeeds() == succeeds("--help")
    for word in ("demo", "compile", "inspect", "print", "bench", "torchvision:resnet18", "package.module:factory"):
        assert word in succeeds()


@pytest.mark.parametrize("command", ["demo", "compile", "inspect", "print", "bench"])
def test_every_help_has_examples_and_explains_every_option(command: str) -> None:
    text = succeeds(command, "--help")
    assert f"  graphprune {command} " in text or f"  graphprune {command}\n" in text
    options = text.split("\nOptions:\n")[1].splitlines()
    for place, line in enumerate(options):
        if line.startswith("  --"):
            described = len(line.split("  ")) > 2 or options[place + 1].startswith("   ")
            assert described, line


def test_version() -> None:
    assert succeeds("--version").startswith(f"graphprune {graphprune.__version__}, python 3.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compil"], "No such command 'compil'. Did you mean 'compile'? (see `graphprune --help`)"),
        (["compile"], "Missing argument 'MODEL' (see `graphprune compile --help`)"),
        (["compile", "paper:lenet5", "--sparsty", "0.5"], "No such option"),
        (["compile", "paper:lenet5", "--sparsity", "half"], "Invalid value for '--sparsity'"),
        (["compile", "paper:lenet5", "--sparsity", "1.5"], "1.5: expected the share to remove, in [0, 1)"),
        (["compile", "paper:lenet5", "--sparsity", "0"], "would remove nothing"),
        (["compile", "paper:lenet5", "--protect", "nothing.*"], "'nothing.*' matches no module"),
        (["compile", "paper:lenet5", "--min-channels", "some"], "min_channels='some'"),
        (["compile", "paper:lenet5", "--min-channels", "0"], "min_channels=0"),
        (["compile", "paper:lenet5", "--align", "0"], "align=0"),
        (["compile", "paper:lenet5", "--criterion", "taste"], "criterion 'taste' is unknown; known are bn-gamma"),
        (["compile", "paper:lenet5", "--dead-paths", "bury"], "dead_paths='bury' is unknown; known are keep, remove"),
        (["compile", "paper:lenet5", "--resurrect"], "cannot come back"),
        (["compile", "paper:lenet5", "--schedule", "never"], "schedule 'never' is unknown; known are geometric"),
        (["compile", "paper:lenet5", "--print-after", "lunch"], "--print-after: there is no pass 'lunch'"),
        (["print", "paper:lenet5", "--after", "lunch"], "there are capture, build-dependencies"),
        (["print", "paper:lenet5", "--after", "prune-channels"], "give --sparsity"),
        (["inspect", "paper:lenet5", "--why", "features.conv1.wight"], "did you mean features.conv1.weight"),
        (["inspect", "paper:lenet5", "--why", "features.conv1.weight[7]"], "has no dim 7"),
        (["bench", "paper:lenet5", "--dense", "paper:lenet5"], "--dense goes with a saved directory"),
        (["bench", "paper:lenet5", "--batch", "0"], "Invalid value for '--batch'"),
        (["bench", "paper:lenet5", "--repeats", "0"], "Invalid value for '--repeats'"),
        (["demo", "--network", "lenet6"], "unknown network 'lenet6'; known: lenet5"),
        (["demo", "--sparsity", "-0.1"], "in [0, 1)"),
        (["demo", "--epochs", "0"], "Invalid value for '--epochs'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, here: Path) -> None:
    said = refuses(*arguments)
    assert message in said
    assert "\n" not in said
    assert not list(here.iterdir())


def test_several_lines_only_where_there_are_several_facts() -> None:
    said = refuses("compile", "paper:lenet5", "--min-channels", "100")
    assert said.splitlines()[0] == "the budget cannot be reached:"
    assert "min_channels=100" in said


def test_a_bug_is_told_from_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InternalError("after prune-channels: the graph lints: no")

    monkeypatch.setattr(graphprune, "compile", fail)
    result = run("compile", "paper:lenet5")
    assert result.exit_code == 1
    assert result.stderr.startswith("graphprune: internal error (InternalError): after prune-channels")
    assert "please report" in result.stderr


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graphprune, "compile", interrupt)
    result = run("compile", "paper:lenet5")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_an_exception_that_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(graphprune, "compile", fail)
    assert isinstance(run("compile", "paper:lenet5").exception, ZeroDivisionError)


def test_the_installed_command_ends_with_a_line_and_code_2() -> None:
    command = [sys.executable, "-c", "from graphprune.cli import main; main()", "inspect", "resnet18"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "graphprune: error: 'resnet18' names no model; write torchvision:resnet18, timm:resnet50, paper:lenet5, or "
        "package.module:factory; did you mean paper:resnet18?"
    ]


# --- names of models -------------------------------------------------------------------------------------------------


def test_paper_networks_take_the_size_of_the_input() -> None:
    assert build_model("paper:lenet5").example.shape == (1, 1, 28, 28)
    assert build_model("paper:conv6").example.shape == (1, 3, 32, 32)
    named = build_model("paper:lenet5", "4,3,32,32")
    assert named.example.shape == (4, 3, 32, 32)
    assert named.module(named.example).shape == (4, 10)


def test_torchvision() -> None:
    named = build_model("torchvision:squeezenet1_1", "1,3,64,64")
    assert named.module(named.example).shape == (1, 1000)
    assert build_model("torchvision:squeezenet1_1").example.shape == (1, 3, 224, 224)


def test_timm_says_the_size_of_its_input() -> None:
    named = build_model("timm:test_resnet")
    assert named.example.shape == (1, 3, 160, 160)
    assert not named.module.training


@pytest.mark.parametrize("name", ["mynets:Net", "mynets:with_example", "mynets:ready"])
def test_factories_in_the_current_directory(name: str, user_code: Path) -> None:
    shape = None if name == "mynets:with_example" else "2,6"
    named = build_model(name, shape)
    assert named.module(named.example).shape == (2, 3)
    assert "first.weight" in succeeds("inspect", name, *([] if shape is None else ["--input-shape", shape]))


def test_factories_of_installed_packages() -> None:
    named = build_model("graphprune.research.networks:lenet5", "1,1,28,28")
    assert named.module(named.example).shape == (1, 10)


def test_the_seed_decides_the_weights() -> None:
    one, other, third = (build_model("paper:lenet5", seed=seed) for seed in (0, 0, 1))
    weights = [next(named.module.parameters()) for named in (one, other, third)]
    assert torch.equal(weights[0], weights[1]) and torch.equal(one.example, other.example)
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet5", "did you mean paper:lenet5?"),
        (":lenet5", "names no model"),
        ("paper:", "names no model"),
        ("paper:lenet6", "the paper has no network 'lenet6'"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; did you mean resnet1"),
        ("timm:resnet51", "timm has no model 'resnet51'; did you mean resnet"),
        ("no_such_package:Net", "there is no module no_such_package, neither installed nor in"),
        ("torch.no_such_module:Net", "there is no module torch.no_such_module"),
        ("mynets:Nett", "mynets has no 'Nett'; did you mean Net?"),
        ("mynets:number", "gives a value of type int; expected an nn.Module"),
        ("mynets:text", "gives a value of type str; expected an nn.Module"),
        ("mynets:needs", "failed when called without arguments: TypeError"),
        ("mynets:fails", "ValueError: no such configuration (mynets.py:19)"),
        ("mynets:Net", "the shape of an input of 'mynets:Net' is not known"),
        ("broken_nets:Net", "importing broken_nets failed: ModuleNotFoundError: No module named 'a_module_that_nobody"),
        ("wrong_nets:Net", "importing wrong_nets failed: ZeroDivisionError: division by zero (wrong_nets.py:1)"),
    ],
)
def test_names_that_lead_to_no_model(name: str, message: str, user_code: Path) -> None:
    said = refuses("compile", name)
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize("shape", ["", "1,3,", "1,x", "1,0,28,28", "-1,3,28,28", "1 3 28 28"])
def test_wrong_shapes(shape: str) -> None:
    assert "expected positive sizes" in refuses("print", "paper:lenet5", "--input-shape", shape)


def test_a_shape_that_the_model_refuses() -> None:
    assert "lenet5: needs images of 28x28 or larger" in refuses("print", "paper:lenet5", "--input-shape", "1,1,8,8")


def test_a_directory_is_no_model_to_compile(saved: Path) -> None:
    assert "is a directory, from which no model can be built" in refuses("compile", saved)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_from_a_file(here: Path) -> None:
    model = lenet5()
    save_file(model.state_dict(), here / "weights.safetensors")
    named = build_model("paper:lenet5", weights=here / "weights.safetensors", seed=3)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(named.module.state_dict()[name], tensor, rtol=0, atol=0)


def test_tied_weights_are_stored_once(here: Path) -> None:
    (here / "tied_nets.py").write_text(
        "from torch import nn\ndef net():\n    a, b = nn.Linear(4, 4), nn.Linear(4, 4)\n    b.weight = a.weight\n"
        "    return nn.Sequential(a, nn.ReLU(), b)\n",
        encoding="utf-8",
    )
    state = build_model("tied_nets:net", "1,4").module.state_dict()
    save_file({name: tensor for name, tensor in state.items() if name != "2.weight"}, here / "weights.safetensors")
    module = build_model("tied_nets:net", "1,4", here / "weights.safetensors", seed=1).module
    assert isinstance(module, nn.Sequential)
    assert module[2].weight is module[0].weight
    torch.testing.assert_close(module[2].weight, state["0.weight"], rtol=0, atol=0)


def test_wrong_weights(here: Path) -> None:
    save_file(build_model("paper:mlp5").module.state_dict(), here / "other.safetensors")
    (here / "text.safetensors").write_text("nothing", encoding="utf-8")
    messages = {
        "absent": "there is no file",
        "other": "does not fit 'paper:lenet5': Runtime",
        "text": "is no safetensors file",
    }
    for name, message in messages.items():
        said = refuses("compile", "paper:lenet5", "--weights", here / f"{name}.safetensors")
        assert message in said and "\n" not in said


# --- compile ---------------------------------------------------------------------------------------------------------


def test_compile_saves_an_artifact_that_loads(saved: Path) -> None:
    loaded = graphprune.load(saved, lenet5())
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in lenet5().parameters())
    costs = json.loads((saved / "report.json").read_text(encoding="utf-8"))["costs"]
    assert costs["channels"] == [226, 113]


def test_compile_saves_without_an_onnx_file(here: Path) -> None:
    options = "compile", "paper:lenet5", "--schedule", "one-shot", "--criterion", "l1-norm", "--no-onnx"
    succeeds(*options, "--out", here / "small")
    assert not (here / "small" / "model.onnx").exists()
    graphprune.load(here / "small", lenet5())
    assert "was saved without an ONNX file, there is nothing to time" in refuses("bench", here / "small")
    assert "--no-onnx says what is not saved; it goes with --out" in refuses(*options)


def test_compile_prints_report_and_times(here: Path) -> None:
    out = succeeds(
        "compile", "paper:mlp5", "--params", "0.5", "--schedule", "one-shot", "--time-passes", "--no-verify",
        "--align", "8", "--protect", "fc2", "--dump-dir", here / "dump", "--criterion", "l1-norm",
    )  # fmt: skip
    assert "ranked by l1" in out and "fc1.weight" in out and "protected by 'fc2'" in out
    times = out[out.index(" pass ") :]
    assert "prune-channels" in times and "verify-prune" not in times
    assert (here / "dump" / "03-build-dependencies.txt").is_file()


def test_compile_makes_weights_zero_and_removes_dead_paths() -> None:
    options = "--sparsity", "0.98", "--granularity", "weight", "--schedule", "one-shot"
    assert "0 live weights on no path" in succeeds("compile", "paper:lenet5", *options, "--dead-paths", "remove")
    assert "0 live weights on no path" not in succeeds("compile", "paper:lenet5", *options)


def test_compile_ranks_on_data_by_a_loss(user_code: Path) -> None:
    own = ("compile", "mynets:with_example", "--schedule", "one-shot", "--data", "mynets:batches")
    assert "the loss was computed" not in succeeds(*own)
    assert "the loss was computed" in succeeds(*own, "--loss", "mynets:loss")
    assert succeeds(*own, "--loss", "torch.nn:CrossEntropyLoss") == succeeds(*own)
    assert succeeds(*own[:-3], "halving", "--data", "mynets:generated")
    assert "Without data= there is no target" in refuses(*own[:-2], "--loss", "torch.nn:CrossEntropyLoss")
    assert "--loss 'torch.nn:Linear' failed when called without" in refuses(*own, "--loss", "torch.nn:Linear")
    assert "--loss 'mynets:number': expected a function, got int" in refuses(*own, "--loss", "mynets:number")
    assert "--loss 'mynets:lost': mynets has no 'lost'; did you mean loss" in refuses(*own, "--loss", "mynets:lost")
    assert "data: expected an iterable of batches" in refuses(*own[:-1], "mynets:number")


def test_compile_repairs_on_the_data(user_code: Path) -> None:
    own = ("compile", "mynets:with_example", "--schedule", "one-shot", "--repair", "least-squares")
    assert "distance from the dense model on" in succeeds(*own, "--data", "mynets:many")
    assert "a repair needs at least 5 samples" in refuses(*own)


def test_compile_prints_the_program_after_a_pass() -> None:
    out = succeeds("compile", "paper:mlp5", "--print-after", "prune-channels", "--schedule", "one-shot")
    assert out.count("program Sequential captured by torch.fx") == 1
    assert out.index("return %fc5") < out.index("channels")


def test_what_cannot_be_saved_is_refused_before_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphprune, "compile", lambda *_, **__: pytest.fail("it worked first"))
    monkeypatch.setattr(demo_command, "run_demo", lambda *_, **__: pytest.fail("it worked first"))
    (here / "file").write_text("words", encoding="utf-8")
    for command in (["compile", "paper:lenet5"], ["demo"]):
        assert "file is a file; name a directory" in refuses(*command, "--out", here / "file")
        assert "file is a file; name a directory" in refuses(*command, "--out", here / "file" / "below")
        assert "not of an artifact" in refuses(*command, "--out", here)
    assert (here / "file").read_text(encoding="utf-8") == "words"


def test_a_place_that_cannot_be_written_to_is_one_line(here: Path) -> None:
    (here / "file").write_text("words", encoding="utf-8")
    said = refuses("compile", "paper:mlp5", "--dump-dir", here / "file", "--schedule", "one-shot")
    assert said == f"{here / 'file'}: File exists"


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_shows_groups_costs_and_frozen_weights() -> None:
    out = succeeds("inspect", "paper:lenet5", "--protect", "features.conv2")
    assert "210 prunable channels in 3 groups, 142,798 parameters, 497,160 multiply-accumulates per sample" in out
    row = next(line for line in out.splitlines() if "features.conv1.weight" in line)
    # 25 weights and 3 vectors of the layer, 25 x 16 weights of the next; 25 x 28 x 28 and 16 x 25 x 10 x 10 products
    assert row.split() == ["g0", "6", "7", "428", "59,600", "features.conv1.weight"]
    assert "protected by 'features.conv2'" in out
    assert "leaves the program" in out


def test_inspect_predicts_latency_by_group(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(here))
    text = succeeds("inspect", "paper:mlp5", "--cost", "--provider", "cpu")
    assert "ms predicted for convolutions and products, batch" in text
    assert "1 thread, float32" in text
    assert "activations" in text


def test_compile_takes_a_latency(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(here))
    monkeypatch.setattr("graphprune.latency.stopwatch.REPEATS", 3)
    # what a busy machine measures is not tested here
    monkeypatch.setattr("graphprune.rounds.by_latency.CORRECTION", Correction(most=10.0))
    text = succeeds("compile", "paper:mlp5", "--latency", "0.3", "--schedule", "one-shot", "--criterion", "l2-norm",
                    "--provider", "cpu")  # fmt: skip
    assert "compact against dense" in text


def test_inspect_explains_names() -> None:
    out = succeeds("inspect", "paper:lenet5", "--why", "classifier.fc2.weight", "--why", "classifier.fc2.weight[1]")
    frozen, prunable = out.splitlines()[0], out.splitlines()[2]
    assert frozen == "classifier.fc2.weight[0], 10 indices: frozen"
    assert prunable == "classifier.fc2.weight[1], 84 indices: prunable, group g3, 84 channels; with it go"
    assert "  classifier.fc1.bias[0]" in out.splitlines()


def test_inspect_leads_to_the_cause_with_its_source_line(here: Path) -> None:
    (here / "skip_nets.py").write_text(
        "from torch import nn\n\nclass Skip(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 2)\n    def forward(self, x):\n"
        "        return self.b(self.a(x) + x)\n",
        encoding="utf-8",
    )
    out = succeeds("inspect", "skip_nets:Skip", "--input-shape", "2,5", "--why", "a.weight")
    assert out.startswith("a.weight[0], 5 indices: frozen")
    assert "skip_nets.py:8" in out


UNKNOWN_OP = """
import torch
from torch import nn
from tests.unknown_op import unknown

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(4, 3)

    def forward(self, x):
        x = self.b(unknown(self.a(x)))
        return self.c(torch.relu(x[:, :4])), x[:, 4:]

def net():
    return Net(), torch.ones(2, 6)
"""


def test_strict_fails_where_something_is_frozen_for_want_of_a_rule(here: Path) -> None:
    (here / "unknown_nets.py").write_text(UNKNOWN_OP, encoding="utf-8")
    shown = run("inspect", "unknown_nets:net", "--strict")
    assert shown.exit_code == 2 and "first member" in shown.stdout
    said = refuses("compile", "unknown_nets:net", "--strict")
    assert shown.stderr == f"graphprune: error: {said}\n"
    lines = said.splitlines()
    assert lines[0] == "strict: Net is frozen in places for want of an op rule or a rewriting:"
    assert "unknown in node %unknown at " in lines[1] and lines[1].endswith(": no rule for this op")
    assert lines[2] == "    froze a.weight[0], a.bias[0], b.weight[1]" and len(lines) == 4
    for passes in (["paper:lenet5"], ["unknown_nets:net", "--protect", "a"]):
        succeeds("inspect", *passes, "--strict")


def test_inspect_tells_which_part_is_frozen(here: Path) -> None:
    (here / "unknown_nets.py").write_text(UNKNOWN_OP, encoding="utf-8")
    out = succeeds("inspect", "unknown_nets:net", "--why", "b.weight").splitlines()
    assert out[0] == "b.weight[0], 2 of 6 indices: frozen"
    assert out[1].startswith("  b.weight[0]: output in node %output at ")
    assert out[2] == "b.weight[0], 4 of 6 indices: prunable, group g0, 4 channels; with it go"
    table = succeeds("inspect", "unknown_nets:net")
    assert next(line for line in table.splitlines() if line.startswith(" b.weight")).split()[1:4] == ["2", "of", "6"]


def test_inspect_prints_the_report_of_a_saved_directory(saved: Path, here: Path) -> None:
    assert succeeds("inspect", saved) == (saved / "report.txt").read_text(encoding="utf-8")
    assert "only the report is there" in refuses("inspect", saved, "--why", "x")
    assert "expected a directory written by" in refuses("inspect", here)


# --- print -----------------------------------------------------------------------------------------------------------


def test_print_is_the_same_each_time() -> None:
    first = succeeds("print", "paper:lenet5")
    assert first == succeeds("print", "paper:lenet5")
    lines = first.splitlines()
    assert lines[0] == "program ConvNet captured by torch.fx"
    assert lines[1].startswith("%x : f32[") and lines[1].endswith(",1,28,28] = input")
    assert lines[2].endswith("= conv2d(%x, @features.conv1.weight, @features.conv1.bias) {group=g0}")
    assert "return %classifier_fc2" in lines
    assert lines[-1].startswith("g3: 84 channels of @classifier.fc1.weight[0], @classifier.fc1.bias[0]")
    assert "@classifier.fc1.weight[1]x9" in lines[-2]


def test_print_after_capture_and_after_a_round() -> None:
    captured = succeeds("print", "paper:lenet5", "--after", "capture")
    assert "group" not in captured
    pruned = [succeeds("print", "paper:lenet5", "--sparsity", "0.5", "--after", "prune-channels") for _ in range(2)]
    assert pruned[0] == pruned[1]
    assert ",120,1,1] = conv2d(" in captured and ",120,1,1] = conv2d(" not in pruned[0]
    assert pruned[0] != succeeds("print", "paper:lenet5", "--sparsity", "0.5", "--criterion", "l1-norm")
    weights = ("print", "paper:lenet5", "--sparsity", "0.5", "--granularity", "weight", "--criterion", "magnitude")
    assert ",120,1,1] = conv2d(" in succeeds(*weights, "--after", "mask-weights")
    assert "no part of this round" in refuses(*weights, "--after", "score-channels")
    assert "give --sparsity" in refuses("print", "paper:lenet5", "--granularity", "weight")


# --- bench -----------------------------------------------------------------------------------------------------------


def test_bench_times_dense_and_compact() -> None:
    out = succeeds("bench", "paper:mlp5", "--sparsity", "0.9", "--repeats", "3", "--batch", "4", "--provider", "cpu")
    assert "onnxruntime on CPUExecutionProvider" in out and "batch 4" in out and "1 thread" in out
    assert [line.split()[0] for line in out.splitlines()[4:6]] == ["dense", "compact"]
    assert "compact against dense: " in out and "p90" in out


def test_bench_times_a_saved_directory(saved: Path) -> None:
    out = succeeds("bench", saved, "--dense", "paper:lenet5", "--repeats", "3", "--batch", "4", "--provider", "cpu")
    assert "batch 4" in out and "compact against dense: " in out
    assert "against" not in succeeds("bench", saved, "--repeats", "3", "--provider", "cpu")
    assert "--sparsity, --weights: a saved" in refuses("bench", saved, "--weights", "x", "--sparsity", "0.5")
    assert "provider='tpu' is unknown" in refuses("bench", saved, "--provider", "tpu")


# --- demo ------------------------------------------------------------------------------------------------------------


def demo_result(settings: DemoSettings, directory: Path) -> DemoResult:
    """Figures that are easy to recognise in a table."""
    slow, fast = Latency.of((4.0, 4.0, 4.0)), Latency.of((1.0, 2.0, 3.0))
    timing = TimingResult(
        "CPUExecutionProvider", "torch sees no CUDA device", 1, 32, 5, 3, Hardware("Abacus", 2, 2, None),
        {"torch": "2.14"}, {"dense": slow, "compact": fast},
        {name: NodePlacement(9, 9, ()) for name in ("dense", "compact")},
    )  # fmt: skip
    dense = Figures(0.955, 2000, 1_000_000, 3_000_000, 4_000_123, 12.0, slow)
    compact = replace(dense, accuracy=0.945, channels=400, params=100_000, training_seconds=3.0, latency=fast)
    proof = Verification(max_abs_error=1e-7, scale=1.0, tolerance=1e-5, batch_sizes=(2, 3), inputs_tried=4)
    return DemoResult(settings, ("digits", 3500, 500, 1000), dense, compact, timing, proof, directory)


def test_demo_prints_one_table(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DemoSettings] = []

    def run_demo(settings: DemoSettings, directory: Path, progress: Any) -> DemoResult:
        asked.append(settings)
        progress("train", 1, 2)
        return demo_result(settings, directory)

    monkeypatch.setattr(demo_command, "run_demo", run_demo)
    result = run("demo", "--epochs", "3", "--sparsity", "0.7", "--seed", "4", "--network", "lenet5", "--out", "there")
    assert result.exit_code == 0
    assert asked == [DemoSettings(network="lenet5", sparsity=0.7, epochs=3, seed=4)]
    assert result.stderr.endswith("s] train\n")
    cells = {line.split("  ")[0].strip(): line.split() for line in result.stdout.splitlines()}
    assert cells["accuracy"] == ["accuracy", "95.5%", "94.5%", "-1.0", "points"]
    assert cells["channels"] == ["channels", "2,000", "400", "5.0x", "smaller"]
    assert cells["training seconds"][-4:] == ["12.0", "3.0", "4.00x", "faster"]
    assert cells["latency ms, batch 32, 1 thread"][-6:] == ["2.000", "[1.200", "to", "2.800]", "2.00x", "faster"]
    assert cells["provider"] == ["provider", "CPUExecutionProvider", "CPUExecutionProvider"]
    assert {"parameters", "multiply-accumulates", "ONNX bytes"} <= cells.keys()
    assert "there/" in result.stdout and "Abacus" in result.stdout
    assert all(line == line.rstrip() and len(line) <= 140 for line in result.stdout.splitlines())


def test_option_errors_carry_the_names_that_there_are() -> None:
    with pytest.raises(OptionError, match="lenet5, mlp5"):
        build_model("paper:nothing")
