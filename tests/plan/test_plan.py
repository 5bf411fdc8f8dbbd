from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import ArtifactError, InputError
from graphprune.plan.plan import Plan, load_plan
from graphprune.program.example import Example
from graphprune.program.tensors import Kept


class Mlp(nn.Module):
    def __init__(self, width: int = 6, classes: int = 3, inputs: int = 4) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, width)
        self.register_buffer("scale", torch.rand(width))
        self.scale: Tensor
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.hidden(x)) * self.scale)
        return out


def kept_of(indices: list[int]) -> Kept:
    keys = [("head.weight", 1), ("hidden.bias", 0), ("hidden.weight", 0), ("scale", 0)]
    return {key: torch.tensor(indices) for key in keys}


def mlp_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "model": "Mlp",
        "example": Example((torch.randn(2, 4),), {}),
        "kept": kept_of([0, 3, 5]),
        "rounds": (kept_of([0, 2, 3, 5]), kept_of([0, 2, 3])),
    }
    return Plan(**(fields | changes)).with_sizes(Mlp())


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(mlp_plan().to_json())
    change(content)
    return json.dumps(content)


# --- what a plan says -------------------------------------------------------------------------------------------------


def test_a_compilation_gives_the_kept_indices_of_everything_that_shrank() -> None:
    model = Mlp(width=8)
    compiled = graphprune.compile(model, torch.randn(4, 4), sparsity=0.5)
    plan, state = compiled.plan, compiled.module.state_dict()
    assert set(plan.kept) == set(kept_of([]))
    assert plan.sizes == {("head.weight", 1): 8, ("hidden.bias", 0): 8, ("hidden.weight", 0): 8, ("scale", 0): 8}
    for (name, dim), indices in plan.kept.items():
        assert indices.dtype == torch.int64
        assert torch.equal(state[name], model.state_dict()[name].index_select(dim, indices))


# --- round trip -------------------------------------------------------------------------------------------------------


def test_a_plan_comes_back_as_it_was() -> None:
    x, ids = torch.randn(2, 3), torch.tensor([[4, 0]])
    example = Example(((x, [ids, {"a": (x,)}]), None, 0.1), {"mask": ids > 1, "flag": True, "inf": math.inf})
    plan = mlp_plan(example=example, protect=("head*", "Ä'\"\n"))
    text = plan.to_json()
    again = Plan.from_json(text)
    (first, second), none, number = again.example.args
    assert (first.shape, first.dtype, none, number) == (x.shape, x.dtype, None, 0.1)
    assert torch.equal(second[0], ids) and isinstance(second[1]["a"], tuple)
    assert torch.equal(again.example.kwargs.pop("mask"), ids > 1)
    assert again.example.kwargs == {"flag": True, "inf": math.inf}
    again = Plan.from_json(text)
    assert (again.model, again.protect, again.sizes) == (plan.model, plan.protect, plan.sizes)
    for first, second in zip([plan.kept, *plan.rounds], [again.kept, *again.rounds], strict=True):
        assert list(first) == list(second)
        assert all(torch.equal(first[key], second[key]) and second[key].dtype == torch.int64 for key in first)
    assert again.to_json() == text
    assert "NaN" not in text and "Infinity" not in text


@pytest.mark.parametrize("argument", [torch.float32, object(), {1, 2}, 1j, {"deep": [b"bytes"]}])
def test_an_argument_without_a_form_in_json_is_named(argument: Any) -> None:
    with pytest.raises(ArtifactError, match=r"the example input of Mlp cannot be stored: \w+ has no form in JSON"):
        mlp_plan(example=Example((argument,), {})).to_json()


# --- reading what is not a plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 50, 0.5, -1])
def test_a_truncated_plan_is_refused(cut: float) -> None:
    text = mlp_plan().to_json()
    with pytest.raises(ArtifactError, match="not valid JSON, was it truncated"):
        Plan.from_json(text[: int(cut * len(text)) if 0 < cut < 1 else int(cut)])


@pytest.mark.parametrize("text", ["[]", "3", "null", '"graphprune-plan"', "{}", '{"format":"other"}', '{"format":{}}'])
def test_other_json_is_not_a_plan(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"not a graphprune plan: format is .* expected 'graphprune-plan'"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, "\ud800", "\0", "9" * 10_000, '{"format":' * 100_000])
def test_absurd_text_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError):
        Plan.from_json(text)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(ArtifactError, match=r"plan of version .*; this graphprune reads 1"):
        Plan.from_json(edited(lambda content: content.update(version=version)))


@pytest.mark.parametrize("entry", ["model", "example", "kept"])
def test_a_missing_entry_is_named(entry: str) -> None:
    with pytest.raises(ArtifactError, match=f"truncated or was edited: entry '{entry}' is missing"):
        Plan.from_json(edited(lambda content: content.pop(entry)))


DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]

ABSURD: dict[str, dict[str, Any]] = {
    "model is a number": {"model": 3},
    "protect is a text": {"protect": "head"},
    "protect holds numbers": {"protect": [1]},
    "kept is a list": {"kept": []},
    "kept is nothing": {"kept": None},
    "dims are a list": {"kept": {"a": [1]}},
    "dim is no number": {"kept": {"a": {"first": [1]}}},
    "dim is negative": {"kept": {"a": {"-1": [1]}}},
    "dim is spelled otherwise": {"kept": {"a": {"00": [1]}}},
    "indices are a number": {"kept": {"a": {"0": 1}}},
    "indices are a text": {"kept": {"a": {"0": "12"}}},
    "indices are empty": {"kept": {"a": {"0": []}}},
    "indices are negative": {"kept": {"a": {"0": [-1, 2]}}},
    "indices repeat": {"kept": {"a": {"0": [1, 1]}}},
    "indices descend": {"kept": {"a": {"0": [2, 1]}}},
    "indices are floats": {"kept": {"a": {"0": [1.0]}}},
    "indices are booleans": {"kept": {"a": {"0": [False, True]}}},
    "indices are nested": {"kept": {"a": {"0": [[1]]}}},
    "index beyond 64 bits": {"kept": {"a": {"0": [2**70]}}},
    "rounds are an object": {"rounds": {"a": 1}},
    "rounds are missing one": {"rounds": [{}]},
    "rounds lead out of range": {"rounds": [{"scale": {"0": [0, 1]}}, {"scale": {"0": [0, 5]}}]},
    "sizes are a list": {"sizes": [1]},
    "sizes are of other dims": {"sizes": {"scale": {"0": 6}}},
    "example is nothing": {"example": None},
    "example is a text": {"example": "xy"},
    "example is of three": {"example": [{"tuple": []}, {"dict": []}, 1]},
    "arguments are a list": {"example": [[], {"dict": []}]},
    "keywords are numbers": {"example": [{"tuple": []}, {"dict": [[1, 2]]}]},
    "example is of no known kind": {"example": [{"tuple": [{"pickle": "x"}]}, {"dict": []}]},
    "a tensor has no type": {"example": [{"tuple": [{"tensor": {"shape": [2]}}]}, {"dict": []}]},
    "very deep": {"example": [{"tuple": DEEP}, {"dict": []}]},
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_content_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="the plan"):
        Plan.from_json(edited(lambda content: content.update(ABSURD[name])))


@pytest.mark.parametrize("size", [5, 0, -1, 6.0, True, None, "6"])
def test_sizes_have_room_for_what_is_kept(size: Any) -> None:
    with pytest.raises(ArtifactError, match=r"scale dim 0: size .* has no room for the indices that are kept"):
        Plan.from_json(edited(lambda content: content["sizes"]["scale"].update({"0": size})))


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(ArtifactError, match=r"plan\.json does not exist; expected a file written by compiled\.save"):
        load_plan(path)
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ArtifactError, match=r"plan\.json cannot be read"):
        load_plan(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"plan\.json: not a graphprune plan"):
        load_plan(path)
    path.write_text(mlp_plan().to_json(), encoding="utf-8")
    assert load_plan(path).to_json() == mlp_plan().to_json()


# --- apply ------------------------------------------------------------------------------------------------------------


def test_apply_keeps_the_model_and_gives_its_weights_under_the_kept_indices() -> None:
    plan, model = mlp_plan(), Mlp().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    module = plan.apply(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training and module.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert list(module.state_dict()) == list(before)
    rows = torch.tensor([0, 3, 5])
    assert torch.equal(module.get_parameter("hidden.weight"), before["hidden.weight"][rows])
    assert torch.equal(module.get_parameter("head.weight"), before["head.weight"][:, rows])
    assert torch.equal(module.get_buffer("scale"), before["scale"][rows])
    own = {tensor.data_ptr() for tensor in model.parameters()}
    assert not any(tensor.data_ptr() in own for tensor in module.parameters())


def test_apply_works_on_a_plan_that_was_read_and_on_one_without_rounds_and_sizes() -> None:
    model, x = Mlp(), torch.randn(5, 4)
    expected = mlp_plan().apply(model)(x)
    assert torch.equal(Plan.from_json(mlp_plan().to_json()).apply(model)(x), expected)
    foreign = edited(lambda content: [content.pop(entry) for entry in ("rounds", "sizes", "protect")])
    assert torch.equal(Plan.from_json(foreign).apply(model)(x), expected)


def test_a_plan_that_removes_nothing_gives_the_model_itself() -> None:
    model, x = Mlp(), torch.randn(5, 4)
    assert torch.equal(mlp_plan(kept={}, rounds=()).apply(model)(x), model(x))


def test_rounds_give_the_same_module_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Mlp()
    at_once = mlp_plan().apply(model)
    monkeypatch.setattr(Plan, "_steps", lambda self, program: self.rounds)
    one_by_one = mlp_plan().apply(model)
    assert str(at_once.graph) == str(one_by_one.graph)
    for name, tensor in at_once.state_dict().items():
        assert torch.equal(one_by_one.state_dict()[name], tensor)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0])
        return out


def test_a_head_that_is_left_alone_still_goes_or_stays_as_a_whole() -> None:
    """Its width could shrink now, but what went together in the user's model still does."""

    def entry(rows: list[int]) -> Kept:
        return {(f"attention.in_proj_{name}", 0): torch.tensor(rows) for name in ("bias", "weight")}

    one_head = entry([*range(8), *range(16, 24), *range(32, 40)]) | {("attention.out_proj.weight", 1): torch.arange(8)}
    narrower = entry([*range(7), *range(8, 15), *range(16, 24)])
    total = one_head | entry([*range(7), *range(16, 23), *range(32, 40)])
    model, x = SelfAttention(), torch.randn(2, 5, 16)
    changes: dict[str, Any] = {"model": "SelfAttention", "example": Example((x,), {})}
    module = Plan(**changes, kept=one_head, rounds=(one_head,)).with_sizes(model).apply(model)
    assert module.get_parameter("attention.in_proj_weight").shape == (24, 16)
    with pytest.raises(ArtifactError, match="cannot be kept apart from those it removes"):
        Plan(**changes, kept=total, rounds=(one_head, narrower)).apply(model)


def test_a_model_of_another_width_is_refused_even_where_all_indices_exist() -> None:
    with pytest.raises(ArtifactError) as raised:
        mlp_plan().apply(Mlp(width=9))
    assert "scale dim 0: expected size 6, got shape (9,)" in str(raised.value)
    assert "head.weight dim 1: expected size 6, got shape (3, 9)" in str(raised.value)


def test_dims_that_did_not_shrink_may_have_another_size() -> None:
    assert mlp_plan().apply(Mlp(classes=7)).get_parameter("head.weight").shape == (7, 3)


def test_a_model_that_is_too_narrow_is_refused_without_sizes() -> None:
    foreign = edited(lambda content: content.pop("sizes"))
    with pytest.raises(ArtifactError, match=r"scale dim 0: the model has 5 indices"):
        Plan.from_json(foreign).apply(Mlp(width=5))


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ArtifactError, match="made for Mlp, this Mlp cannot be run with inputs of the plan's shapes"):
        mlp_plan().apply(Mlp(inputs=5))


@pytest.mark.parametrize(
    "other", [nn.Linear(4, 6), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), nn.Conv2d(1, 1, 1)]
)
def test_another_class_is_refused(other: nn.Module) -> None:
    with pytest.raises(ArtifactError, match="the plan does not fit the model"):
        mlp_plan().apply(other)


def test_indices_that_are_coupled_otherwise_are_refused() -> None:
    other = kept_of([0, 3, 5]) | {("scale", 0): torch.tensor([0, 1, 5])}
    with pytest.raises(ArtifactError, match="cannot be kept apart from those it removes"):
        mlp_plan(kept=other, rounds=(other,)).apply(Mlp())


def test_outputs_cannot_be_removed() -> None:
    frozen = {("head.weight", 0): torch.tensor([0, 1]), ("head.bias", 0): torch.tensor([0, 1])}
    with pytest.raises(ArtifactError, match="cannot be kept apart"):
        mlp_plan(kept=frozen, rounds=(frozen,)).apply(Mlp())


@pytest.mark.parametrize("model", [Mlp, None, "Mlp"])
def test_apply_needs_an_instance(model: Any) -> None:
    with pytest.raises(InputError, match="a plan is applied to an instance of Mlp, got"):
        mlp_plan().apply(model)


class Gather(nn.Module):
    """Fails on indices of zero: what integers hold matters for a replay."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        last = x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)
        out: Tensor = self.head(torch.relu(self.hidden(last)))
        return out


def test_integers_keep_their_values_so_that_the_model_can_run() -> None:
    example = (torch.randn(2, 5, 4), torch.tensor([5, 2]))
    model = Gather()
    plan = graphprune.compile(model, example, sparsity=0.5, schedule="one-shot").plan
    module = Plan.from_json(plan.to_json()).apply(model)
    assert module(*example).shape == (2, 3)


def test_a_plan_is_applied_to_what_torch_compile_wraps() -> None:
    model, plan = Mlp(), mlp_plan()
    applied, expected = plan.apply(torch.compile(model)), plan.apply(model)  # type: ignore[arg-type]
    assert applied.state_dict().keys() == expected.state_dict().keys()
    x = torch.randn(2, 4)
    assert torch.equal(applied(x), expected(x))


@pytest.mark.cuda
def test_a_plan_from_one_device_applies_on_another() -> None:
    module = mlp_plan().apply(Mlp().cuda())
    assert {tensor.device.type for tensor in module.parameters()} == {"cuda"}
    assert module(torch.randn(2, 4, device="cuda")).shape == (2, 3)
