"""Progress of long work on stderr: bars on a terminal, elsewhere lines if they are wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Phases:
    """Shows phases one after the other; it is called with a phase, steps done, steps in all, and what a step is doing.

    Bars disappear at the end, so that nothing but results stays on a terminal.

    Args:
        bars: Whether to show bars on a terminal; not for commands that print while they work.
        lines: Whether to write a line at the beginning of each phase where there is no terminal.
    """

    def __init__(self, *, bars: bool = True, lines: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._lines = lines and not self._console.is_terminal
        # stdout is not redirected, because only stderr has bars
        self._bars = Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not bars or not self._console.is_terminal,
            redirect_stdout=False,
            refresh_per_second=4,
        )
        self._phase = ""
        self._started = time.perf_counter()

    def __enter__(self) -> Phases:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        """Takes note of progress; a new name begins a new phase."""
        if phase != self._phase:
            self._begin(phase, total)
        text = f"{phase}: {detail}" if detail else phase
        self._bars.update(self._bars.task_ids[-1], description=text, completed=done, total=total)

    def of(self, phase: str) -> Callable[[int, int], None]:
        """Returns the callback of a phase that only counts."""
        return lambda done, total: self(phase, done, total)

    def rounds(self, stage: str, done: int, total: int) -> None:
        """Shows the progress of `graphprune.compile`, as its callback."""
        self("prune", done, total, "" if stage == "done" else stage)

    def _begin(self, phase: str, total: int) -> None:
        self._phase = phase
        self._bars.add_task(phase, total=total)
        if self._lines:
            elapsed = time.perf_counter() - self._started
            self._console.print(f"[{elapsed:6.1f} s] {phase}", markup=False, soft_wrap=True)
