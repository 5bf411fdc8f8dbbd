"""Samples to fit to, and samples to judge by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphprune.criteria.samples import Batch
from graphprune.errors import InputError
from graphprune.program.example import Example

ONE_IN = 5
"""One in so many samples is held out."""


@dataclass(frozen=True)
class Split:
    """Batches without targets.

    Attributes:
        fitted: Batches that are fitted to.
        held_out: Batches on which the result is judged.
    """

    fitted: tuple[Example, ...]
    held_out: tuple[Example, ...]

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of samples that are fitted to, and of those that are held out."""
        fitted, held_out = (sum(batch.batch_size for batch in part) for part in (self.fitted, self.held_out))
        return fitted, held_out


def check_enough(samples: int) -> None:
    """Raises `InputError` if there are too few samples for a repair."""
    if samples < ONE_IN:
        raise InputError(
            f"a repair needs at least {ONE_IN} samples, to fit to and to judge by; got {samples}. Give more as data="
        )


def split(batches: Iterable[Batch]) -> Split:
    """Holds out one in five samples: whole batches where there are enough of them, the last rows of each otherwise.

    Raises:
        InputError: there are fewer than five samples.
    """
    given = list(batches)
    if len(given) >= ONE_IN:
        whole = [(batch.inputs, place % ONE_IN == ONE_IN - 1) for place, batch in enumerate(given)]
        return Split(
            tuple(inputs for inputs, is_held in whole if not is_held),
            tuple(inputs for inputs, is_held in whole if is_held),
        )
    fitted, held_out, seen = [], [], 0
    for batch in given:
        count = (seen + batch.size) // ONE_IN - seen // ONE_IN
        seen += batch.size
        if count < batch.size:
            fitted.append(batch.rows(0, batch.size - count).inputs)
        if count:
            held_out.append(batch.rows(batch.size - count, batch.size).inputs)
    check_enough(seen)
    return Split(tuple(fitted), tuple(held_out))
