"""All exceptions of graphprune, in two families.

`UserError` means that something about the model, the options or the files cannot work, and the message says what to
change. `InternalError` means that graphprune broke one of its own invariants; it is a bug to report.
"""

from __future__ import annotations

import torch


class GraphPruneError(Exception):
    """Base class of every exception raised on purpose by graphprune."""


class UserError(GraphPruneError):
    """The request cannot be carried out; the message names the cause and the remedy."""


class OptionError(UserError):
    """An option is out of range, unknown, or contradicts another one."""


class CaptureError(UserError):
    """Neither torch.fx nor torch.export could turn the model into a graph that passes can run over and over."""


class InputError(UserError):
    """The example input or a batch of data does not fit the model."""


class LossError(UserError):
    """The loss cannot be computed, or is not a finite scalar."""


class BudgetError(UserError):
    """The budget cannot be reached under the given floors, alignment and protections."""


class NothingToPruneError(BudgetError):
    """The step would remove nothing."""


class FrozenError(UserError):
    """Under ``strict=True``: something is frozen because graphprune has no rule or no rewriting for an op."""


class ArtifactError(UserError):
    """A saved artifact is missing, truncated, edited, or was not written by graphprune."""


class ExportError(UserError):
    """The compact module could not be exported to a valid ONNX file."""


class InternalError(GraphPruneError):
    """An invariant of graphprune is broken; please report the message."""


class VerificationError(InternalError):
    """The compact program does not compute what the masked dense program computes."""


class RewriteError(InternalError):
    """The literals of a node are in a form that its rewriting rule does not expect."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class InvariantError(InternalError):
    """A program violates one or more named invariants after a pass."""


WRITES = (
    "{} to its parameter '{}' in forward(). Passes run a program over and over, and expect that it leaves its weights "
    "alone: use what is computed of the parameter (self.weight * self.mask; torch.nn.utils.parametrize), write to it "
    "between the steps of training, or make it a buffer"
)
"""Start of a message; takes who writes, and the parameter's name."""


def shown(value: object) -> str:
    """Returns a value as one short line, to be quoted in a message."""
    try:
        return " ".join(repr(value).split())[:80]
    except Exception:  # the user's own repr may raise anything
        return f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """Returns the type and the first line of an exception, to be quoted in the message of another one."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which says nothing about the model; on the CPU, torch has no exception type for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
