"""Runs pipelines of passes, with a verifier between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from graphprune.errors import InternalError, InvariantError
from graphprune.pass_manager.invariants import violations
from graphprune.pass_manager.printer import print_program
from graphprune.pass_manager.protocol import FrontEnd, Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.program.tensors import submodules

log = logging.getLogger(__name__)


@dataclass
class Runner:
    """Runs passes one after the other: verify, requires, run, ensures, verify, dump, time.

    Attributes:
        dump_dir: Folder to which the program is written as text after each pass; None to write nothing.
        print_after: Names of passes after which the program is handed to ``emit``.
        emit: Function that takes the printed program.
        seconds: Time spent in each pass so far, by name.
    """

    dump_dir: Path | None = None
    print_after: frozenset[str] = frozenset()
    emit: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)
    _step: int = 0
    _checked: Program | None = field(default=None, repr=False)
    _last: tuple[object, object] | None = field(default=None, repr=False)

    def start(self, front_end: FrontEnd, model: nn.Module) -> Program:
        """Makes a program of a model; its module is checked once a pass has changed it.

        Raises:
            UserError: the model cannot become a program.
        """
        started = time.perf_counter()
        result = front_end.run(model)
        self._finish(front_end.name, started, result)
        return result.program

    def run(self, pipeline: Sequence[Pass], program: Program) -> Program:
        """Runs a pipeline.

        Raises:
            InternalError: the order of the passes cannot work, or a pass broke its contract.
            InvariantError: the program is not well-formed before or after a pass.
        """
        check_order(pipeline, program)
        if program is not self._checked:
            # only the facts are new here: the module was checked after the pass that last changed it
            check(program, "before the pipeline", program.with_module(program.module))
        for transformation in pipeline:
            program = self._run_one(transformation, program)
        self._checked = program
        return program

    def forget(self) -> None:
        """Forgets the last program; to be called before its module goes to other hands, which may replace tensors."""
        self._last = self._checked = None

    def _run_one(self, transformation: Pass, program: Program) -> Program:
        started = time.perf_counter()
        _raise_if(transformation.requires(program), f"{transformation.name}: precondition")
        given = self._contents_of(program)
        result = transformation.run(program)
        _raise_if(transformation.ensures(program, result), f"{transformation.name}: postcondition")
        _raise_if(_claims(transformation, program, given, result), f"{transformation.name}: claim")
        if result.modified:
            check(result.program, f"after {transformation.name}", program)
        self._finish(transformation.name, started, result)
        return result.program

    def _finish(self, name: str, started: float, result: PassResult) -> None:
        """Notes the time, logs, and shows the program."""
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        log.info("%s: %s", name, "; ".join(result.remarks) or "done")
        self._show(name, result.program)

    def _contents_of(self, program: Program) -> object:
        """The `_contents` of a program, reused from the pass before if the module is the same."""
        if self._last is None or self._last[0] is not program.module:
            self._last = (program.module, _contents(program))
        return self._last[1]

    def _show(self, name: str, program: Program) -> None:
        self._step += 1
        if self.dump_dir is None and name not in self.print_after:
            return
        text = print_program(program)
        if name in self.print_after:
            self.emit(text)
        if self.dump_dir is not None:
            self.dump_dir.mkdir(parents=True, exist_ok=True)
            (self.dump_dir / f"{self._step:02d}-{name}.txt").write_text(text, encoding="utf-8")


def check_order(pipeline: Sequence[Pass], program: Program) -> None:
    """Checks before anything runs that each pass will find the facts it needs.

    Raises:
        InternalError: a fact is missing; the message names every violation.
    """
    present = frozenset(program.facts)
    problems = []
    for transformation in pipeline:
        missing = _names(transformation.needs - present)
        if missing:
            problems.append(f"{transformation.name} needs {', '.join(missing)}, which no earlier pass provides")
        present = (present - transformation.drops) | transformation.provides
    _raise_if(problems, "order of passes")


def check(program: Program, when: str, since: Program | None = None) -> None:
    """Raises `InvariantError` with every violated invariant; see `violations`."""
    found = violations(program, since)
    if found:
        raise InvariantError(f"{when}:\n" + "\n".join(f"  {problem}" for problem in found))


def _claims(transformation: Pass, before: Program, given: object, result: PassResult) -> list[str]:
    """Messages about what a pass says of itself and its result that is not true."""
    problems = []
    if not result.modified and result.program is not before:
        problems.append("says that nothing changed, but returns another program")
    if result.modified and result.program is before:
        problems.append("says that it changed something, but returns the same program")
    if _contents(before) != given:
        problems.append("changes the module of the program that it was given; work on a copy")
    if result.modified:
        present = frozenset(result.program.facts)
        missing, stale = transformation.provides - present, present & transformation.drops - transformation.provides
        problems += [f"says that it provides {name}, but does not" for name in _names(missing)]
        problems += [f"says that it drops {name}, but keeps it" for name in _names(stale)]
    return problems


def _names(kinds: Iterable[type[Fact]]) -> list[str]:
    return sorted(kind.__name__ for kind in kinds)


def _contents(program: Program) -> object:
    """A value that stays equal as long as the graph and the stored tensors are the same objects, with any values."""
    nodes = [(node, node.target, node.args, node.kwargs) for node in program.module.graph.nodes]
    tensors = [
        (name, id(tensor), tensor.shape)
        for module in submodules(program.module).values()
        for table in (module._parameters, module._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]
    return nodes, tensors


def _raise_if(problems: Sequence[str], what: str) -> None:
    if problems:
        raise InternalError(f"{what}:\n" + "\n".join(f"  {problem}" for problem in problems))
