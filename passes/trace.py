"""Makes the program that all other passes transform from the user's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from graphprune.capture import capture
from graphprune.pass_manager.protocol import FrontEnd, PassResult
from graphprune.program.program import Attention


@dataclass(frozen=True)
class Trace(FrontEnd):
    """Captures a model as one graph, by the first front end whose graph computes what the model computes.

    Attributes:
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments.
        protect: Name patterns of what must stay.
        attention: What is removed from attention.
        verify: Whether the model is run, and a graph is accepted only if it computes the same.
    """

    example_input: Any
    protect: tuple[str, ...] = ()
    attention: Attention = "heads"
    verify: bool = True

    def run(self, model: nn.Module) -> PassResult:
        """Returns the program; the model is not changed.

        Raises:
            InputError: the example holds no tensor, or the model is not ready to run.
            CaptureError: no front end could capture the model.
        """
        program = capture(model, self.example_input, self.protect, self.attention, verify=self.verify)
        return PassResult(program, True, (f"captured by {program.captured_by}",))
