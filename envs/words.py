"""Environments that language agents play in texts, by one string: `kind/name`, or `my_pkg.module:make`.

They are not among `hypermarl.envs.ENVS`, which are tensors; `InWords` makes them of any PettingZoo environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .interface import EnvironmentFault
from .options import nearest
from .words_text import Renderer, TextEnv, read_word
from .words_wrapper import InWords

__all__ = ["KINDS", "InWords", "Renderer", "TextEnv", "make_text", "parse_text", "read_word", "text_catalogue"]

# kind -> the module that makes it, with `make(name, *, options)` and `CATALOGUE`, imported only when asked for
KINDS: dict[str, str] = {
    "words": ".words_games",
    "textarena": ".textarena",
    "pettingzoo": ".words_own",
}


def parse_text(text: str) -> tuple[str, str]:
    """`"kind/name"` or `"my_pkg.module:make"` -> (kind, name); the kind is known, the name is not looked up."""
    kind, slash, name = text.partition("/")
    if not slash and ":" in text:
        return "pettingzoo", text
    if not slash or not name:
        if kind in KINDS:
            raise EnvironmentFault(f"Environment {text!r} lacks a name: write '{kind}/<name>'.")
        strings = [*KINDS, *(string for string, _ in text_catalogue() if "<" not in string)]
        raise EnvironmentFault(f"Environment {text!r} is not of the form 'kind/name'; {nearest(text, strings)}")
    _check_kind(kind, text)
    return kind, name


def make_text(kind: str, name: str, *, options: Mapping[str, Any] | None = None) -> TextEnv:
    """`kind/name` with its options; every bad name or option is an `EnvironmentFault` of one sentence."""
    _check_kind(kind, f"{kind}/{name}")
    env: TextEnv = import_module(KINDS[kind], __package__).make(name, options=dict(options or {}))
    return env


def text_catalogue() -> list[tuple[str, str]]:
    """(string, one line on it) of every environment in words; a line stands for those of the user's own."""
    return [
        (f"{kind}/{name}", line)
        for kind, module in KINDS.items()
        for name, line in import_module(module, __package__).CATALOGUE.items()
    ]


def _check_kind(kind: str, text: str) -> None:
    if kind not in KINDS:
        raise EnvironmentFault(f"Environment {text!r} is of an unknown kind of text {kind!r}; {nearest(kind, KINDS)}")
