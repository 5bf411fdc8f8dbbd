"""Random states and levels of loggers come back as they were, whatever happens in between."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.process_state import only_errors, private_random_state

SEEDS = st.one_of(st.integers(0, 3), st.integers(0, 2**63 - 1))
"""All that graphprune takes; numpy takes 32 bits only."""

Draws = tuple[list[float], list[float], list[float]]


def draws() -> Draws:
    """The next numbers of each generator."""
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def seeded(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.fixture(autouse=True)
def states_of_the_process() -> Iterator[None]:
    """Other tests do not feel these."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    yield
    np.random.set_state(numpy_state)
    random.setstate(python_state)


@given(SEEDS)
def test_the_generators_of_the_process_go_on_where_they_were(seed: int) -> None:
    seeded(1)
    expected = draws()
    seeded(1)
    with private_random_state(seed):
        draws()
    assert draws() == expected


@given(SEEDS)
def test_a_seed_tells_the_numbers(seed: int) -> None:
    found = []
    for others in range(2):
        seeded(others)
        with private_random_state(seed):
            found.append(draws())
    assert found[0] == found[1]


@pytest.mark.parametrize(("first", "second"), [(0, 1), (5, 6), (2**31, 2**31 + 1)])
def test_other_seeds_give_other_numbers(first: int, second: int) -> None:
    with private_random_state(first):
        torch_first = torch.rand(4)
    with private_random_state(second):
        torch_second = torch.rand(4)
    assert not torch.equal(torch_first, torch_second)


@pytest.mark.parametrize("kind", range(3), ids=["torch", "numpy", "python"])
def test_every_generator_is_seeded(kind: int) -> None:
    found = []
    for seed in (1, 1, 2):
        with private_random_state(seed):
            found.append(draws()[kind])
    assert found[0] == found[1] != found[2]


class Interruption(BaseException):
    """Like Ctrl-C: no `Exception`."""


@pytest.mark.parametrize("error", [ValueError, Interruption])
def test_random_states_come_back_after_an_exception(error: type[BaseException]) -> None:
    seeded(1)
    expected = draws()
    seeded(1)
    with pytest.raises(error), private_random_state(7):
        draws()
        raise error
    assert draws() == expected


def test_private_states_can_be_nested() -> None:
    with private_random_state(3):
        expected = (draws(), draws())
    with private_random_state(3):
        first = draws()
        with private_random_state(4):
            draws()
        assert (first, draws()) == expected


def test_an_abandoned_iterator_gives_the_states_back() -> None:
    def drawing() -> Iterator[Draws]:
        with private_random_state(3):
            while True:
                yield draws()

    seeded(1)
    expected = draws()
    seeded(1)
    iterator = drawing()
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert draws() == expected


@pytest.mark.cuda
def test_numbers_on_cuda_come_back_too() -> None:
    torch.cuda.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    with private_random_state(7):
        inside = torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    with private_random_state(7):
        assert torch.equal(torch.rand(3, device="cuda"), inside)


# --- loggers ----------------------------------------------------------------------------------------------------------

NAMES = ("graphprune-test-a", "graphprune-test-b")


@pytest.fixture
def levels() -> Iterator[list[int]]:
    """Levels of two loggers, one of which has its parent's."""
    loggers = [logging.getLogger(name) for name in NAMES]
    for logger, level in zip(loggers, (logging.DEBUG, logging.NOTSET), strict=True):
        logger.setLevel(level)
    yield [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


def now() -> list[int]:
    return [logging.getLogger(name).level for name in NAMES]


def test_only_errors_get_through_for_a_while(levels: list[int], caplog: pytest.LogCaptureFixture) -> None:
    for name in (NAMES[0], f"{NAMES[0]}.inside"):
        logger = logging.getLogger(name)
        with only_errors(*NAMES):
            logger.debug("no")
            logger.warning("no")
            logger.error("yes")
        logger.warning("again")
    assert [record.message for record in caplog.records] == ["yes", "again"] * 2
    assert now() == levels


def test_other_loggers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with only_errors(NAMES[0]):
        logging.getLogger(NAMES[1]).warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]


@pytest.mark.parametrize("error", [ValueError, Interruption])
def test_levels_come_back_after_an_exception(levels: list[int], error: type[BaseException]) -> None:
    with pytest.raises(error), only_errors(*NAMES):
        assert now() == [logging.ERROR] * 2
        raise error
    assert now() == levels


@pytest.mark.parametrize(
    "silence", [partial(only_errors), partial(only_errors, NAMES[0], NAMES[0]), partial(only_errors, *NAMES)]
)
def test_levels_come_back_from_within_each_other(
    levels: list[int], silence: Callable[[], AbstractContextManager[None]]
) -> None:
    with silence():
        inside = now()
        with only_errors(*NAMES):
            pass
        assert now() == inside
    assert now() == levels
