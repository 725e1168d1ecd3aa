"""Every environment by one string: `kind/name`, or `my_pkg.module:make` for one of the user's own.

To add a kind: a module here with `make` (and `make_parallel` if it has a PettingZoo form of its own), and a line
in `ENVS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .interface import EnvironmentFault, VectorEnv
from .options import nearest, whole_number

if TYPE_CHECKING:
    import torch
    from pettingzoo import ParallelEnv

__all__ = ["ENVS", "EnvironmentFault", "VectorEnv", "catalogue", "make", "make_parallel", "parse"]

# kind -> the module that makes it, imported only when asked for: packages of the other kinds need not be there
ENVS: dict[str, str] = {
    "games": ".games",
    "spread": ".spread",
    "vmas": ".vmas",
    "pettingzoo": ".pettingzoo",
}


# kinds whose names are for other packages to know: a line that stands for all that are not listed
OPEN: dict[str, tuple[str, str]] = {
    "vmas": ("<scenario>", "any VMAS scenario with its own options, as in vmas/dispersion"),
    "pettingzoo": ("<module>", "any PettingZoo environment, as in pettingzoo/mpe2.simple_spread_v3"),
}


def parse(text: str) -> tuple[str, str]:
    """`"kind/name"` or `"my_pkg.module:make"` -> (kind, name); the kind is known, the name is not looked up."""
    kind, slash, name = text.partition("/")
    if not slash and ":" in text:
        return "pettingzoo", text
    if not slash or not name:
        if kind in ENVS:
            raise EnvironmentFault(f"Environment {text!r} lacks a name: write '{kind}/<name>'.")
        raise EnvironmentFault(f"Environment {text!r} is not of the form 'kind/name'; {_nearest_string(text)}")
    _check_kind(kind, text)
    return kind, name


def make(
    kind: str,
    name: str,
    *,
    num_envs: int = 1,
    device: str | torch.device = "cpu",
    max_steps: int | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """`num_envs` copies of `kind/name`, stepped at once; `max_steps` is the clock that truncates an episode."""
    module = _module(kind, name)
    _check_numbers(kind, name, num_envs=num_envs, workers=workers, max_steps=max_steps)
    env: VectorEnv = module.make(
        name, num_envs=num_envs, device=device, max_steps=max_steps, workers=workers, options=dict(options or {})
    )
    return env


def make_parallel(
    kind: str,
    name: str,
    *,
    max_steps: int | None = None,
    options: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
) -> ParallelEnv[str, Any, Any]:
    """One copy of `kind/name` as a PettingZoo `ParallelEnv`, its own where it has one."""
    module = _module(kind, name)
    _check_numbers(kind, name, max_steps=max_steps)
    if hasattr(module, "make_parallel"):
        own: ParallelEnv[str, Any, Any] = module.make_parallel(
            name, max_steps=max_steps, options=dict(options or {}), render_mode=render_mode
        )
        return own
    from .parallel import ParallelView

    env = module.make(name, num_envs=1, device="cpu", max_steps=max_steps, workers=1, options=dict(options or {}))
    return ParallelView(env, name=f"{kind}/{name}", render_mode=render_mode)


def catalogue() -> list[tuple[str, str]]:
    """(string, one line on it): every environment of ours, well-known ones of other packages, a line for the rest."""
    return [(f"{kind}/{name}", line) for kind in ENVS for name, line in _names(kind).items()]


def _names(kind: str) -> dict[str, str]:
    try:
        listed: dict[str, str] = getattr(import_module(ENVS[kind], __name__), "CATALOGUE", {})
    except ModuleNotFoundError:  # the package it stands on is not there
        listed = {}
    return listed | dict([OPEN[kind]] if kind in OPEN else [])


def _module(kind: str, name: str) -> ModuleType:
    _check_kind(kind, f"{kind}/{name}")
    return import_module(ENVS[kind], __name__)


def _check_kind(kind: str, text: str) -> None:
    if kind in ("words", "textarena"):  # texts, not tensors: see `words.make_text`
        raise EnvironmentFault(f"Environment {text!r} is played in words: train it by `hypermarl swarm train`.")
    if kind not in ENVS:
        raise EnvironmentFault(f"Environment {text!r} is of an unknown kind {kind!r}; {nearest(kind, ENVS)}")


def _nearest_string(text: str) -> str:
    return nearest(text, [*ENVS, *(name for name, _ in catalogue() if "<" not in name)])


def _check_numbers(kind: str, name: str, **numbers: int | None) -> None:
    for word, number in numbers.items():
        if number is None and word == "max_steps":
            continue
        try:
            whole_number(word, number, 1)
        except ValueError as error:
            raise EnvironmentFault(f"Environment '{kind}/{name}': {error}") from error
