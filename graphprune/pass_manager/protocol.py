"""What a pass is: a frozen dataclass that takes a program to a program and states its own contract."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class PassResult:
    """What a pass returns.

    Attributes:
        program: The new program; the same object where nothing changed.
        modified: True only when something changed.
        remarks: What a reader of the log should know.
    """

    program: Program
    modified: bool
    remarks: tuple[str, ...] = ()


class _Named:
    @property
    def name(self) -> str:
        """The class name in kebab case: ``PruneChannels`` is ``prune-channels``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()


@dataclass(frozen=True)
class FrontEnd(_Named, ABC):
    """Base of all front ends, which make a program of a model; the fields of a subclass are its options."""

    @abstractmethod
    def run(self, model: nn.Module) -> PassResult:
        """Makes the program, with remarks for a reader of the log."""


@dataclass(frozen=True)
class Pass(_Named, ABC):
    """Base of all passes; the fields of a subclass are its options.

    Class attributes:
        needs: Types of the facts that must be known before the pass.
        provides: Types of the facts that the pass finds out.
        drops: Types of the facts that no longer hold after the pass.
    """

    needs: ClassVar[frozenset[type[Fact]]] = frozenset()
    provides: ClassVar[frozenset[type[Fact]]] = frozenset()
    drops: ClassVar[frozenset[type[Fact]]] = frozenset()

    def requires(self, program: Program) -> list[str]:
        """Violations of the precondition, beyond `needs`; none by default."""
        return []

    @abstractmethod
    def run(self, program: Program) -> PassResult:
        """Transforms a program."""

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Violations of the postcondition; none by default."""
        return []
