"""Names and options from a user, checked: an unknown one is answered with the nearest that exists."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from .interface import EnvironmentFault

Options = TypeVar("Options")


def nearest(word: str, words: Iterable[str]) -> str:
    """How a message goes on after an unknown word: the nearest valid one, or all of them where none is near."""
    valid = sorted(words)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(repr(each) for each in valid)}." if valid else "there is none to choose from."


def read_options(cls: type[Options], given: Mapping[str, Any], env: str) -> Options:
    """Build the frozen dataclass `cls` from a user's options of `env`; an unknown option or a bad value is a fault."""
    known = [each.name for each in fields(cls)]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise EnvironmentFault(f"Environment {env!r} has no option {name!r}; {nearest(str(name), known)}")
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise EnvironmentFault(f"Environment {env!r}: {error}") from error


def whole_number(name: str, number: Any, least: int, most: int | None = None) -> int:
    """`number` if it is a whole number from `least` to `most`, else ValueError with one sentence."""
    whole = isinstance(number, int) and not isinstance(number, bool)
    if whole and least <= number and (most is None or number <= most):
        return int(number)
    span = f"from {least} to {most}" if most is not None else f"of at least {least}"
    raise ValueError(f"option {name!r} must be a whole number {span}, not {number!r}.")
