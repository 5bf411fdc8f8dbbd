"""Types of command-line arguments, which say in an error what is wrong with a value."""

from __future__ import annotations

import argparse
from fractions import Fraction


def count(text: str) -> int:
    """Reads a whole number, at least 1."""
    return _whole(text, at_least=1)


def count_from_zero(text: str) -> int:
    """Reads a whole number, at least 0."""
    return _whole(text, at_least=0)


def share(text: str) -> float:
    """Reads a number between 0 and 1, also as a fraction (``2/3``)."""
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return number


def positive(text: str) -> float:
    """Reads a number above 0."""
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def _whole(text: str, at_least: int) -> int:
    if not text.removeprefix("-").isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least {at_least}, got {text}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"expected a number, got {text}") from error
