"""A plan: which indices of a model's parameters and buffers stay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from graphprune.capture import capture
from graphprune.dependencies import Dependencies
from graphprune.errors import ArtifactError
from graphprune.program import Example, Kept
from graphprune.rewrite.compact import compact_module, compose_kept

FORMAT = "graphprune-plan"
VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What is kept of a model.

    Attributes:
        model: Class name of the model.
        example: Example inputs; only shapes and types matter.
        kept: Kept indices by (name, dim), for every parameter and buffer that shrank, under the names of the user's model.
        rounds: The same in the steps in which it came about, each in terms of what the one before had left.
        protect: Name patterns that were protected.
    """

    model: str
    example: Example
    kept: Kept
    rounds: tuple[Kept, ...]
    protect: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The plan as JSON."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "example": {"args": _describe(self.example.args), "kwargs": _describe(self.example.kwargs)},
            "protect": list(self.protect),
            "kept": _kept_to_json(self.kept),
            "rounds": [_kept_to_json(kept) for kept in self.rounds],
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads a plan; ``rounds`` may be missing, for plans from elsewhere.

        Raises:
            ArtifactError: not a plan, or of another version, or inconsistent.
        """
        try:
            content = json.loads(text)
            if content.get("format") != FORMAT:
                raise ArtifactError(f"not a graphprune plan: format is {content.get('format')!r}, expected {FORMAT!r}")
            if content.get("version") != VERSION:
                raise ArtifactError(f"plan of version {content.get('version')!r}; this graphprune reads {VERSION}")
            example = Example(tuple(_restore(content["example"]["args"])), _restore(content["example"]["kwargs"]))
            kept = _kept_from_json(content["kept"])
            rounds = tuple(_kept_from_json(entry) for entry in content.get("rounds", [content["kept"]]))
        except ArtifactError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the plan is truncated or was edited: {type(error).__name__}: {error}") from error
        composed: Kept = {}
        for entry in rounds:
            composed = compose_kept(composed, entry)
        if _kept_to_json(composed) != _kept_to_json(kept):
            raise ArtifactError("the plan contradicts itself: its rounds do not lead to the indices it keeps")
        return cls(content["model"], example, kept, rounds, tuple(content.get("protect", ())))

    def apply(self, model: nn.Module) -> fx.GraphModule:
        """Replays the plan on a fresh instance of the model, which is not changed.

        Raises:
            ArtifactError: the plan does not fit the model.
        """
        from graphprune.passes import pipelines
        from graphprune.runner import Runner

        program = Runner().run(pipelines.analysis(), capture(model, self.example, self.protect))
        for kept in self.rounds:
            dependencies = program.dependencies
            assert dependencies is not None
            keep = channels_of(dependencies, kept)
            module = compact_module(program, dependencies, keep)
            program = program.with_module(module, kept=compose_kept(program.kept, kept), channels_left=None)
            program = Runner().run(pipelines.reanalysis(), program)
        return program.module


def channels_of(dependencies: Dependencies, kept: Kept) -> Tensor:
    """The channels that a plan keeps, bool, shape ``(channels,)``.

    Raises:
        ArtifactError: the plan names what the model does not have, or would take channels apart.
    """
    owners = {(owner.name, owner.dim): owner for owner in dependencies.stored}
    keep = torch.ones(dependencies.channels + 1, dtype=torch.bool)
    for key, indices in kept.items():
        owner = owners.get(key)
        if owner is None or len(indices) == 0 or int(indices.max()) >= owner.size or int(indices.min()) < 0:
            size = "nothing of that name" if owner is None else f"{owner.size} indices"
            raise ArtifactError(f"the plan does not fit the model: {key[0]} dim {key[1]}: the model has {size}")
        removed = torch.ones(owner.size, dtype=torch.bool)
        removed[indices] = False
        keep[dependencies.channel_of[owner.start : owner.start + owner.size][removed]] = False
    found = dependencies.kept(keep[:-1])
    if not bool(keep[-1]) or _kept_to_json(found) != _kept_to_json(kept):
        raise ArtifactError(
            "the plan does not fit the model: it keeps indices that cannot be kept apart from those it removes; "
            "was it made for another model or configuration?"
        )
    return keep[:-1]


def _kept_to_json(kept: Kept) -> dict[str, dict[str, list[int]]]:
    result: dict[str, dict[str, list[int]]] = {}
    for (name, dim), indices in sorted(kept.items()):
        result.setdefault(name, {})[str(dim)] = indices.tolist()
    return result


def _kept_from_json(content: dict[str, dict[str, list[int]]]) -> Kept:
    return {
        (name, int(dim)): torch.tensor(indices, dtype=torch.long)
        for name, dims in content.items()
        for dim, indices in dims.items()
    }


def _describe(value: Any) -> Any:
    """Tensors as shape and type; containers and numbers as they are."""
    return tree_map_only(
        Tensor,
        lambda tensor: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")},
        list(value) if isinstance(value, tuple) else value,
    )


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"shape", "dtype"}:
            return torch.zeros(value["shape"], dtype=getattr(torch, value["dtype"]))
        return {key: _restore(entry) for key, entry in value.items()}
    return [_restore(entry) for entry in value] if isinstance(value, list) else value


def load_plan(path: Path) -> Plan:
    """Reads a plan from a file.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected a directory written by compiled.save()")
    return Plan.from_json(path.read_text())


