"""HyperMARL: one hypernetwork generates every agent's weights.

A trained team is loaded and played in two lines, on dicts by agent as PettingZoo gives and takes them:

    team = hypermarl.load("runs/my_run")
    actions = team.act(observations)

and a trained swarm of language agents, which answers in texts, by

    swarm = hypermarl.load_swarm("runs/my_swarm")
    answers = swarm.generate({"auditor": "...", "clerk": "..."})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypermarl.language.load import load_swarm as load_swarm
    from hypermarl.marl.team import load as load
    from hypermarl.marl.train import Experiment as Experiment

# imported when first asked for, so that `import hypermarl` and the command line's help do not wait for torch
_LAZY = {
    "load": "hypermarl.marl.team",
    "load_swarm": "hypermarl.language.load",
    "Experiment": "hypermarl.marl.train",
}

__all__ = ["Experiment", "__version__", "load", "load_swarm"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hypermarl")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hypermarl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
