"""A saved program as a module that needs neither the user's class nor its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphprune.deploy.sessions import CPU, choose_provider, open_session
from graphprune.deploy.signature import feed
from graphprune.errors import ArtifactError, ExportError, InputError, OptionError, UserError, shown
from graphprune.plan.trees import READ_ERRORS, decode, explained
from graphprune.program.example import Example
from graphprune.saving.manifest import CallForm

_NO_TRAINING = (
    "this module runs an ONNX file and cannot be trained; "
    "load the artifact with model=<a fresh instance of the model's class> to get a module that can"
)


class OnnxModule(nn.Module):
    """Runs an ONNX file in onnxruntime; arguments and outputs have the structure of those of the exported module.

    Outputs are on the device of the first input; all tensors pass through the memory of the CPU. There are no
    parameters. Where gradients are enabled, floating-point outputs require them, as those of any module with weights
    do, so that a backward pass fails with a reason instead of training nothing; use `torch.no_grad` for inference.

    Attributes:
        provider: The execution provider that runs the file.
        provider_reason: Why the provider is not CUDA; empty where it is.
    """

    def __init__(self, path: Path, call: CallForm, example: Example, provider: str = "auto") -> None:
        """Opens the file.

        Args:
            path: The ONNX file.
            call: Names of the file's inputs and outputs, and the structure of the outputs.
            example: Shapes, types and structure of the arguments; arguments that are not tensors are fixed in the
                program.
            provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.

        Raises:
            ArtifactError: the file is not a valid model, or does not have the inputs and outputs that it should.
            OptionError: CUDA is requested where it cannot run.
        """
        super().__init__()
        self.training = False
        self._call_form, self._example = call, example
        self._session, self.provider, self.provider_reason = _open(path, provider)
        self._shapes = {node.name: node.shape for node in self._session.get_inputs()}
        _check_form(path, self._session, call, example)
        # makes outputs part of an autograd graph whose backward pass says why it fails
        self._anchor = torch.zeros((), requires_grad=True)

    def extra_repr(self) -> str:
        """Shows inputs, outputs and provider."""
        call = self._call_form
        return f"{', '.join(call.inputs)} -> {', '.join(call.outputs)}, {self.provider}"

    def train(self, mode: bool = True) -> OnnxModule:
        """Keeps evaluation mode, which is the only one.

        Raises:
            UserError: training mode is requested.
        """
        if mode:
            raise UserError(_NO_TRAINING)
        super().train(False)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program.

        Raises:
            InputError: the arguments are not those that the program was made for.
        """
        tensors = self._inputs(args, kwargs)
        try:
            arrays = self._session.run(list(self._call_form.outputs), feed(self._call_form.inputs, tensors))
        except ExportError as error:
            raise InputError(str(error)) from error
        except Exception as error:  # onnxruntime's exceptions have no common base below Exception
            shapes = {name: tuple(tensor.shape) for name, tensor in zip(self._call_form.inputs, tensors, strict=True)}
            raise InputError(f"onnxruntime cannot run the program on inputs of the shapes {shapes}: {error}") from error
        device = tensors[0].device if tensors else torch.device("cpu")
        outputs = tuple(_tensor(array).to(device) for array in arrays)
        if torch.is_grad_enabled():
            outputs = _Inference.apply(self._anchor, *outputs)
        return decode(self._call_form.returns, lambda place: outputs[place])

    def _inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call, in the order of the file's inputs."""
        given = _bound(self._call_form.parameters, self._example, args, kwargs)
        tensors: list[Tensor] = []
        for slot, expected in _slots(self._example).items():
            where = _described(slot, self._call_form.parameters)
            if slot in given:
                tensors += _matched(expected, given[slot], where)
            elif any(True for _ in _leaves(expected)):
                raise InputError(f"{where} is missing; it was given when the model was compiled")
        for name, tensor in zip(self._call_form.inputs, tensors, strict=True):
            self._check_shape(name, tensor)
        return tensors

    def _check_shape(self, name: str, tensor: Tensor) -> None:
        """Compares fixed sizes; a size that is given as a name is free."""
        expected = self._shapes[name]
        fits = len(expected) == tensor.dim() and all(
            not isinstance(size, int) or size == found for size, found in zip(expected, tensor.shape, strict=True)
        )
        if not fits:
            shape = ", ".join(map(str, expected))
            raise InputError(f"input '{name}': expected shape ({shape}), got {tuple(tensor.shape)}")


class _Inference(torch.autograd.Function):
    """The identity, with a backward pass that says why there is none."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs unchanged."""
        ctx.mark_non_differentiable(*(tensor for tensor in outputs if not tensor.is_floating_point()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Refuses to train, with the reason."""
        raise UserError(_NO_TRAINING)


def _open(path: Path, requested: str) -> tuple[Any, str, str]:
    """Opens a session; returns it with its provider, and why that is not CUDA."""
    provider, reason = choose_provider(requested)
    try:
        return open_session(path, provider, torch.get_num_threads()), provider, reason
    except OptionError as error:
        if requested != "auto" or provider == CPU:
            raise
        return open_session(path, CPU, torch.get_num_threads()), CPU, str(error)


def _check_form(path: Path, session: Any, call: CallForm, example: Example) -> None:
    """Checks that the file has the inputs and outputs that the manifest names, as many as plan and manifest need."""
    have = ([node.name for node in session.get_inputs()], [node.name for node in session.get_outputs()])
    if have != (list(call.inputs), list(call.outputs)):
        raise ArtifactError(f"{path}: expected the inputs {call.inputs} and outputs {call.outputs}, got {have}")
    if len(example.tensors()) != len(call.inputs):
        count = len(example.tensors())
        raise ArtifactError(f"{path} has {len(call.inputs)} inputs, the plan's example {count} tensors")
    places: list[int] = []
    try:
        decode(call.returns, places.append)
        if sorted(places) != list(range(len(call.outputs))):
            raise ValueError(f"it has places for the outputs {places}, the file has {len(call.outputs)}")
    except READ_ERRORS as error:
        raise ArtifactError(f"{path}: the structure of its outputs is damaged: {explained(error)}") from error


def _slots(example: Example) -> dict[int | str, Any]:
    """Arguments of the example: positional ones by place, keyword ones by name."""
    return dict(enumerate(example.args)) | example.kwargs


def _bound(
    parameters: Sequence[str], example: Example, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[int | str, Any]:
    """Puts a call's arguments into the slots of the example, whether they were given by position or by keyword."""
    slots = _slots(example)
    given: dict[int | str, Any] = {}
    pairs: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, value in pairs:
        slot: int | str = key
        if isinstance(key, int) and key not in slots and key < len(parameters):
            slot = parameters[key]
        elif isinstance(key, str) and key not in slots and key in parameters:
            slot = parameters.index(key)
        if slot not in slots:
            known = ", ".join(_described(known, parameters) for known in slots)
            raise InputError(
                f"{_described(key, parameters)} was not given when the model was compiled, so the program does not "
                f"have it; it takes {known}"
            )
        if slot in given:
            raise InputError(f"{_described(slot, parameters)} is given twice, by position and by keyword")
        given[slot] = value
    return given


def _described(slot: int | str, parameters: Sequence[str]) -> str:
    if isinstance(slot, int):
        return f"argument '{parameters[slot]}'" if slot < len(parameters) else f"positional argument {slot}"
    return f"argument '{slot}'"


def _matched(expected: Any, given: Any, where: str) -> Iterator[Tensor]:
    """Yields the tensors of an argument, which must have the structure, types and constants of the example's."""
    if isinstance(expected, Tensor):
        if not isinstance(given, Tensor):
            raise InputError(f"{where}: expected a tensor, got {type(given).__name__}")
        if given.dtype != expected.dtype:
            raise InputError(f"{where}: expected {expected.dtype}, got {given.dtype}; convert it with .to()")
        yield given
    elif isinstance(expected, Mapping):
        if not isinstance(given, Mapping) or given.keys() != expected.keys():
            raise InputError(f"{where}: expected a dict with the keys {list(expected)}, got {shown(given)}")
        for key, entry in expected.items():
            yield from _matched(entry, given[key], f"{where}[{key!r}]")
    elif isinstance(expected, (tuple, list)):
        if not isinstance(given, (tuple, list)) or len(given) != len(expected):
            kind = type(expected).__name__
            raise InputError(f"{where}: expected a {kind} of {len(expected)} values, got {shown(given)}")
        for index, entry in enumerate(expected):
            yield from _matched(entry, given[index], f"{where}[{index}]")
    elif not (given is None or isinstance(given, (bool, int, float, str))) or given != expected:
        raise InputError(f"{where}: the program was made with {expected!r} and cannot take {shown(given)}")


def _leaves(tree: Any) -> list[Tensor]:
    return Example((tree,), {}).tensors()


def _tensor(array: NDArray[Any]) -> Tensor:
    """Returns a tensor that shares the array's memory; a single number may come as a scalar of numpy."""
    return torch.from_numpy(np.asarray(array))
