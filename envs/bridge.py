"""A PettingZoo environment, found by its name and asked politely: whatever it does wrong becomes one sentence."""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from .interface import EnvironmentFault, Group
from .options import nearest
from .spaces import ActionForm, Misfit, ObservationForm, action_form, groups_of, is_masked, observation_form

FAMILIES = ("atari", "butterfly", "classic", "sisl")  # of PettingZoo itself

Observations = dict[str, Any]
Infos = dict[str, dict[str, Any]]
Transition = tuple[Observations, dict[str, Any], dict[str, Any], dict[str, Any], Infos]


def fault(name: str, sentence: str) -> EnvironmentFault:
    return EnvironmentFault(f"Environment {name!r}: {sentence}.")


def raised(name: str, place: str, error: BaseException) -> EnvironmentFault:
    """The fault that says what an environment's own code raised, and where; with its traceback as a note."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    words = " ".join(str(error).split()).rstrip(".")
    made = fault(name, f"{place} raised {type(error).__name__}{': ' + words if words else ''}{where}")
    made.add_note("".join(traceback.format_exception(error)))
    made.__cause__ = error
    return made


# -- by name -----------------------------------------------------------------------------------------------------------


def open_environment(name: str, options: Mapping[str, Any], render_mode: str | None = None) -> Any:
    """What the factory called `name` makes: a `ParallelEnv` or an `AECEnv`.

    `name` is a module (`mpe2.simple_spread_v3`, `butterfly.knights_archers_zombies_v11`), of which `parallel_env` or
    else `env` is called, or `my_pkg.module:make`; modules are also looked for in the current directory.
    """
    path, _, attribute = name.partition(":")
    if not attribute and path.split(".")[0] in FAMILIES:
        path = f"pettingzoo.{path}"
    module = module_of(name, path)
    factory = factory_of(name, module, attribute)
    arguments = dict(options)
    if render_mode is not None and _accepts(factory, "render_mode"):
        arguments["render_mode"] = render_mode
    try:
        env = factory(**arguments)
    except EnvironmentFault:
        raise
    except TypeError as error:
        raise unknown_option(name, module, factory, arguments) or raised(name, "making it", error) from error
    except Exception as error:
        raise raised(name, "making it", error) from error
    if hasattr(env, "possible_agents") and hasattr(env, "observation_space") and hasattr(env, "step"):
        return env
    if isinstance(env, ParallelEnv | AECEnv):
        raise fault(name, "has no 'possible_agents'; list there every agent that may ever take part")
    kind = "a Gymnasium environment for one agent" if hasattr(env, "action_space") else f"a {type(env).__name__}"
    raise fault(name, f"made {kind}, not a PettingZoo ParallelEnv or AECEnv")


def module_of(name: str, path: str) -> ModuleType:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # a greeting nobody asked for
    if path.startswith(("mpe.", "pettingzoo.mpe.")):
        raise fault(
            name, f"MPE moved to a package of its own: pip install mpe2, and name it 'mpe2.{path.split('.')[-1]}'"
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(f"{error.name}.")):
            raise fault(name, _missing(path)) from error
        extra = path.split(".")[1] if path.startswith("pettingzoo.") else ""
        package = f"'pettingzoo[{extra}]'" if extra in FAMILIES else error.name
        raise fault(name, f"needs the package {error.name!r}: pip install {package}") from error
    except Exception as error:
        raise raised(name, "importing it", error) from error


def _missing(path: str) -> str:
    parent, _, last = path.rpartition(".")
    if not parent:
        return f"there is no module {path!r}, installed or in the current directory"
    try:
        package = import_module(parent) if find_spec(parent.split(".")[0]) else None
    except ImportError:
        package = None
    if package is None:
        top = path.split(".")[0]
        return (
            f"there is no module {top!r}, installed or in the current directory; if it is a package, pip install {top}"
        )
    names = [module.name for module in pkgutil.iter_modules(getattr(package, "__path__", []))]
    return f"there is no module {last!r} in {parent!r}; {nearest(last, names)}".rstrip(".")


def factory_of(name: str, module: ModuleType, attribute: str) -> Callable[..., Any]:
    where = getattr(module, "__file__", None) or module.__name__
    for word in [attribute] if attribute else ["parallel_env", "env"]:
        factory: Callable[..., Any] | None = getattr(module, word, None)
        if callable(factory):
            return factory
    if not attribute:
        raise fault(name, f"{where} has neither 'parallel_env' nor 'env'; name the function, as in '{name}:make'")
    public = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
    raise fault(name, f"{where} has no function {attribute!r}; {nearest(attribute, public)}".rstrip("."))


def _parameters(factory: Callable[..., Any]) -> tuple[list[str], bool]:
    """The names of what it takes, and whether it takes any other."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return [], True
    return [each.name for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)], any(
        each.kind is each.VAR_KEYWORD for each in found
    )


def _accepts(factory: Callable[..., Any], word: str) -> bool:
    names, any_other = _parameters(factory)
    return any_other or word in names


def unknown_option(
    name: str, module: ModuleType, factory: Callable[..., Any], arguments: Mapping[str, Any]
) -> EnvironmentFault | None:
    names, any_other = _parameters(factory)
    if any_other:  # PettingZoo's factories pass everything on to the class `raw_env` beside them
        names, any_other = _parameters(getattr(module, "raw_env", factory))
    for word in arguments:
        if not any_other and word not in names:
            return fault(name, f"has no option {word!r}; {nearest(word, names)}".rstrip("."))
    return None


# -- what its agents see and do ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What the agents of an environment see and do, and the groups they make."""

    observations: dict[str, ObservationForm]
    actions: dict[str, ActionForm]
    groups: dict[str, Group]


def survey(env: Any, name: str) -> Form:
    """Read the spaces, and reset once to see whether masks come in the infos."""
    agents = list(env.possible_agents)
    if not agents:
        raise fault(name, "its 'possible_agents' is empty")
    for agent in agents:
        if not isinstance(agent, str):
            raise fault(name, f"agents must be named by strings, not by {agent!r}")
    _, infos = begin(env, name, 0)
    observations, actions, forms = {}, {}, {}
    for agent in agents:
        seen = _space(env, name, agent, "observation_space")
        done = _space(env, name, agent, "action_space")
        try:
            word = "observation"
            observations[agent] = observation_form(seen)
            word = "action"
            actions[agent] = action_form(done)
        except Misfit as error:
            raise fault(name, f"the {word} space of agent {agent!r} {error}") from error
        masked = is_masked(seen) or "action_mask" in (infos.get(agent) or {})
        if masked and not isinstance(done, spaces.Discrete):
            raise fault(name, f"agent {agent!r} has an action mask, but its actions are no Discrete space")
        forms[agent] = (observations[agent], actions[agent], masked)
    return Form(observations, actions, groups_of(forms))


def _space(env: Any, name: str, agent: str, word: str) -> Any:
    try:
        return getattr(env, word)(agent)
    except Exception as error:
        raise raised(name, f"{word}({agent!r})", error) from error


def begin(env: Any, name: str, seed: int | None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
    """`env.reset`, whose own errors and answers of another kind become faults."""
    try:
        answer = env.reset(seed=seed) if options is None else env.reset(seed=seed, options=options)
    except EnvironmentFault:
        raise
    except Exception as error:
        raise raised(name, "reset", error) from error
    if not (isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, Mapping) for part in answer)):
        raise fault(name, "reset must return two dictionaries, observations and infos")
    return answer


def advance(env: Any, name: str, actions: dict[str, Any]) -> Transition:
    """`env.step`, whose own errors and answers of another kind become faults."""
    try:
        answer = env.step(actions)
    except EnvironmentFault:
        raise
    except Exception as error:
        raise raised(name, "step", error) from error
    if type(answer) is not tuple or len(answer) != 5 or not all(isinstance(part, Mapping) for part in answer):
        raise fault(
            name, "step must return five dictionaries: observations, rewards, terminations, truncations and infos"
        )
    return answer
