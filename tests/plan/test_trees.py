from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.plan.trees import READ_ERRORS, decode, decode_example, encode, encode_example, encode_outputs, explained

Pair = namedtuple("Pair", "left right")


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def assert_same_tree(first: Any, second: Any) -> None:
    """Equal types all the way down; floating tensors by shape and type only."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert (first.shape, first.dtype) == (second.shape, second.dtype)
        assert first.is_floating_point() or first.is_complex() or torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same_tree(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same_tree(one, other)
    else:
        assert first == second or (math.isnan(first) and math.isnan(second))


# --- examples ---------------------------------------------------------------------------------------------------------

EXAMPLES: dict[str, Any] = {
    "tensor": torch.randn(2, 3, 4, 4),
    "types": (torch.zeros(2).half(), torch.zeros(2, 0), torch.tensor(3.0), torch.zeros(1, dtype=torch.complex64)),
    "integers": [torch.randint(0, 99, (2, 7)), torch.tensor([[True], [False]]), torch.tensor(5, dtype=torch.uint8)],
    "nested": ((torch.randn(2, 3), [torch.randn(2), {"a": (torch.randn(2),)}]), (), [], {}),
    "constants": {"mask": None, "flag": True, "scale": 0.1, "mode": "sum", "n": 2**70, "zero": -0.0},
    "looks like a description": ({"shape": [2], "dtype": "float32"}, {"tensor": 1}, {"tuple": []}),
    "keys": {1: torch.ones(2), "1": 2, None: 3, 2.5: 4, False: 5, (1, "a"): 6},
    "not finite": (math.inf, -math.inf, math.nan, [math.nan]),
    "noncontiguous": (torch.randint(0, 9, (3, 2)).T, torch.randn(3, 2).T, torch.tensor([3]).expand(4)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_tree_comes_back_as_it_was(name: str) -> None:
    content = through_json(encode(EXAMPLES[name], encode_example))
    again = decode(content, decode_example)
    assert_same_tree(again, EXAMPLES[name])
    assert through_json(encode(again, encode_example)) == content


def test_kinds_of_containers_that_only_their_class_can_make_become_plain_ones() -> None:
    tree = Pair(torch.Size([1, 2]), OrderedDict(a=1))
    assert_same_tree(decode(through_json(encode(tree, encode_example)), decode_example), ((1, 2), {"a": 1}))


def test_a_large_tensor_takes_no_memory_and_many_integers_leave_their_values_out() -> None:
    tree = [torch.zeros(()).expand(2**20, 2**18), torch.ones(2**17, dtype=torch.long)]
    content = through_json(encode(tree, encode_example))
    first, second = decode(content, decode_example)
    assert first.shape == (2**20, 2**18)
    assert first.untyped_storage().nbytes() == 4
    assert len(json.dumps(content)) < 200
    assert second.shape == (2**17,) and not second.any()


@pytest.mark.parametrize("leaf", [torch.float32, object(), {1, 2}, 1j, {"deep": [b"bytes"]}, {object(): 1}])
def test_what_has_no_form_in_json_is_named(leaf: Any) -> None:
    with pytest.raises(TypeError, match=r"\w+ has no form in JSON"):
        encode((leaf,), encode_example)


ABSURD: dict[str, Any] = {
    "pairs are no pairs": {"dict": [["a"]]},
    "dict is an object": {"dict": {"a": 1}},
    "keys are lists": {"dict": [[[1], 2]]},
    "tuple is a text": {"tuple": "ab"},
    "unknown kind": {"pickle": "x"},
    "several kinds": {"tuple": [], "dict": []},
    "no kind": {},
    "float is a text": {"float": "much"},
    "float is a list": {"float": [1]},
}

TENSORS: dict[str, Any] = {
    "nothing": None,
    "a list": [2],
    "no type": {"shape": [2]},
    "type is no type": {"shape": [2], "dtype": "nn"},
    "type is a function of torch": {"shape": [2], "dtype": "load"},
    "type is a number": {"shape": [2], "dtype": 1},
    "shape is a number": {"shape": 2, "dtype": "float32"},
    "shape is negative": {"shape": [-1], "dtype": "float32"},
    "shape is a float": {"shape": [2.0], "dtype": "float32"},
    "shape is a boolean": {"shape": [True], "dtype": "float32"},
    "shape is astronomic": {"shape": [2**40, 2**40], "dtype": "float32"},
    "values of another shape": {"shape": [2], "dtype": "int64", "values": [1, 2, 3]},
    "values out of range": {"shape": [1], "dtype": "uint8", "values": [2**80]},
    "values are texts": {"shape": [1], "dtype": "int64", "values": ["a"]},
    "values are nothing": {"shape": [1], "dtype": "int64", "values": None},
}


@pytest.mark.parametrize("content", [*ABSURD.values(), *({"tensor": content} for content in TENSORS.values())])
def test_absurd_content_raises_one_of_the_named_errors(content: Any) -> None:
    with pytest.raises(READ_ERRORS) as raised:
        decode([content], decode_example)
    assert len(explained(raised.value)) < 400


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_outputs_are_numbered_in_the_order_of_the_onnx_file() -> None:
    one, two, three = torch.ones(3, 1)
    outputs = {"b": (two, [one, None]), "a": Pair(three, None)}
    structure = through_json(encode_outputs(outputs))
    assert decode(structure, lambda place: place) == {"b": (0, [1, None]), "a": (2, None)}
    assert decode(through_json(encode_outputs(one)), lambda place: place) == 0
    assert decode(through_json(encode_outputs((one, one))), lambda place: place) == (0, 1)
