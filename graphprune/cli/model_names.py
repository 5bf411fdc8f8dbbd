"""Models by name: ``torchvision:resnet18``, ``timm:...``, ``paper:lenet5``, ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from graphprune.capture import unwrapped
from graphprune.errors import ArtifactError, OptionError
from graphprune.research.networks import NETWORKS

FORMS = "torchvision:resnet18, timm:resnet50, paper:lenet5, or package.module:factory"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NamedModel:
    """A model and an input for it.

    Attributes:
        name: The name as it was given.
        module: Freshly built, in evaluation mode.
        example: Example input: a tensor, a tuple of arguments, or a dict of keyword arguments.
    """

    name: str
    module: nn.Module
    example: Any


@dataclass(frozen=True)
class _Built:
    """What a source builds for a name: the model, and either an example input or the shape of one."""

    module: nn.Module
    shape: Shape | None = None
    example: Any = None


def build_model(
    name: str,
    input_shape: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> NamedModel:
    """Builds the model of that name.

    Args:
        name: Name in one of the forms of `FORMS`. A factory is called without arguments and returns an nn.Module, or a
            pair of one and its example input; it is looked for in the current directory too.
        input_shape: Sizes of the example input, ``"1,3,224,224"``; by default what the source of the model says.
        weights: A safetensors file with all weights of the model; they are random otherwise.
        seed: Seed of random weights and of the example input.
        device: Where it is built; on ``"meta"`` it takes no memory, and has no values.

    Raises:
        OptionError: the name, or what it leads to, is not a model, or the shape of the input is not known.
        ArtifactError: the weights cannot be read or do not fit.
    """
    source, colon, rest = name.partition(":")
    if not colon or not source or not rest:
        raise OptionError(f"'{name}' names no model; write {FORMS}{_hint(name)}")
    wanted = None if input_shape is None else parse_shape(input_shape)
    torch.manual_seed(seed)
    with torch.device(device):
        built = _SOURCES[source](rest, wanted) if source in _SOURCES else _from_factory(source, rest)
    if weights is not None:
        _load_weights(built.module, weights, name)
    return NamedModel(name, built.module.eval(), _example(name, built, wanted, seed, device))


def parse_shape(text: str) -> Shape:
    """Parses sizes such as ``"1,3,224,224"``.

    Raises:
        OptionError: the text is something else.
    """
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise OptionError(f"--input-shape '{text}': expected positive sizes, the batch first, such as 1,3,224,224")
    return tuple(int(size) for size in sizes)


def _example(name: str, built: _Built, wanted: Shape | None, seed: int, device: str) -> Any:
    if wanted is None and built.example is not None:
        return built.example
    shape = wanted or built.shape
    if shape is None:
        raise OptionError(
            f"the shape of an input of '{name}' is not known; give it, such as --input-shape 1,3,224,224, or let the "
            "factory return (model, example_input)"
        )
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def _from_torchvision(name: str, wanted: Shape | None) -> _Built:
    models = _library("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise OptionError(f"torchvision has no model '{name}'{_similar(name, models.list_models())}")
    # these two draw their weights in any case, but warn unless init_weights is given
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # otherwise the weights of the backbone would be downloaded
    return _Built(models.get_model(name, weights=None, **options), (1, 3, 224, 224))


def _from_timm(name: str, wanted: Shape | None) -> _Built:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise OptionError(f"timm has no model '{name}'{_similar(name, timm.list_models())}")
    module = timm.create_model(name, pretrained=False)
    return _Built(module, (1, *module.pretrained_cfg["input_size"]))


def _from_paper(name: str, wanted: Shape | None) -> _Built:
    if name not in NETWORKS:
        raise OptionError(f"the paper has no network '{name}'; it has {', '.join(NETWORKS)}")
    if wanted is None:
        shape = (1, 28, 28) if name in ("lenet5", "mlp5") else (3, 32, 32)
        return _Built(NETWORKS[name](), (1, *shape))
    return _Built(NETWORKS[name](in_shape=wanted[1:]), wanted)


_SOURCES: dict[str, Callable[[str, Shape | None], _Built]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "paper": _from_paper,
}


def _from_factory(module_name: str, attribute: str) -> _Built:
    """Imports a module and calls its factory; whatever the user's code raises becomes one line."""
    name = f"{module_name}:{attribute}"
    made = named_object(name, f"'{name}'")
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    module = unwrapped(module)
    if not isinstance(module, nn.Module):
        raise OptionError(f"'{name}' gives {_kind(made)}; expected an nn.Module, or (nn.Module, example_input)")
    return _Built(module, example=example)


def named_object(name: str, what: str) -> Any:
    """Returns the object ``package.module:name``; a class or function is called, without arguments.

    Args:
        name: Name of the object; its module is looked for in the current directory too.
        what: What messages call the object.

    Raises:
        OptionError: there is no such object, or the call fails.
    """
    found = attribute(name, what)
    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:  # the user's code may raise anything
        raise OptionError(f"{what} failed when called without arguments: {_one_line(error)}") from error


def attribute(name: str, what: str) -> Any:
    """Returns the object ``package.module:name`` without calling it; see `named_object`.

    Raises:
        OptionError: there is no such object.
    """
    module_name, colon, own_name = name.partition(":")
    if not colon or not module_name or not own_name:
        raise OptionError(f"{what}: expected package.module:name")
    module = _imported(module_name)
    if not hasattr(module, own_name):
        raise OptionError(f"{what}: {module_name} has no '{own_name}'{_similar(own_name, vars(module))}")
    return getattr(module, own_name)


def _imported(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise OptionError(
                f"there is no module {error.name}, neither installed nor in {here}; a model is named {FORMS}"
            ) from error
        raise OptionError(f"importing {name} failed: {_one_line(error)}") from error
    except Exception as error:  # the module's code may raise anything
        raise OptionError(f"importing {name} failed: {_one_line(error)}") from error


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionError(f"{package} cannot be imported: {_one_line(error)}; `pip install {package}`") from error


def _load_weights(module: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        what = f"{path} is a directory" if path.is_dir() else f"there is no file {path}"
        raise ArtifactError(f"--weights: {what}; expected a safetensors file")
    try:
        load_model(module, path)
    except SafetensorError as error:
        raise ArtifactError(
            f"--weights: {path} is no safetensors file ({error}); of what torch.save wrote, "
            "safetensors.torch.save_file(torch.load(path), new_path) makes one"
        ) from error
    except RuntimeError as error:
        raise ArtifactError(f"--weights: {path} does not fit '{name}': {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """Type and message of an error, cut to one line, with the place in the user's code where there is one."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *_FOREIGN))]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}{place}"


_FOREIGN = (str(Path(__file__).parent.parent), str(Path(torch.__file__).parent), str(Path(os.__file__).parent))
"""Folders whose code is not the user's: graphprune, torch, the standard library."""


def _similar(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _hint(name: str) -> str:
    if Path(name).is_dir():
        return f" ('{name}' is a directory, from which no model can be built)"
    return f"; did you mean paper:{name}?" if name in NETWORKS else ""


def _kind(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a value of type {type(value).__name__}"
