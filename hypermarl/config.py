"""From `key=value` words to frozen dataclasses: Hydra composes the presets, `build` checks every key and value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from hypermarl.errors import UserError
from hypermarl.typed import build, keys, nearest, to_dict

__all__ = ["PRESETS", "ROOTS", "build", "check_ranges", "compose", "groups", "keys", "nearest", "presets", "to_dict"]
PRESETS = "hypermarl.configs"
_KEY = re.compile(r"(\+\+?|~)?[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Root:
    """What a command starts from, `configs/<root>.yaml`: the groups it has presets of, and the one that must be said.

    `only` and `never` are how the names of presets begin that alone, or not at all, make sense here.
    """

    groups: tuple[str, ...]
    needed: str
    words: str
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    never: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TEXTS = ("words/", "textarena/")
READERS = ("hyper_text", "hyper_t2l", "hyper_modulated", "hyper_document", "hyper_reader")
"""Environments that are played in words, and ways of sharing that read them."""

ROOTS = {
    "train": Root(
        ("algorithm", "env", "model", "sharing", "speed"),
        "env",
        "Say which environment: env=<kind>/<name>, for instance env=vmas/dispersion.",
        never={"env": TEXTS, "sharing": READERS},
    ),
    "language": Root(("sharing", "task"), "task", "Say what is taught: task=<name>, for instance task=roles."),
    "swarm": Root(
        ("env", "sharing"),
        "env",
        "Say which environment in words: env=<kind>/<name>, for instance env=words/specialisation.",
        only={"env": TEXTS},
    ),
}


# ------------------------------------------------------------------------------------------------ presets


def groups(root: str = "train") -> list[str]:
    """The settings that are chosen by the name of a preset: `env`, `sharing`, ..."""
    return sorted(ROOTS[root].groups)


def presets(group: str, root: str | None = None) -> dict[str, str]:
    """Preset name -> its one-line description, the first comment of its file; of all commands, or of one."""
    found: dict[str, str] = {}
    _collect(resources.files(PRESETS).joinpath(group), "", found)
    if root is not None:
        only, never = ROOTS[root].only.get(group, ("",)), ROOTS[root].never.get(group, ())
        found = {name: line for name, line in found.items() if name.startswith(only) and not name.startswith(never)}
    return dict(sorted(found.items()))


def _is_group(entry: Traversable) -> bool:
    return entry.is_dir() and not entry.name.startswith(("_", "."))


def _collect(folder: Traversable, prefix: str, found: dict[str, str]) -> None:
    for entry in folder.iterdir():
        if _is_group(entry):
            _collect(entry, f"{prefix}{entry.name}/", found)
        elif entry.name.endswith(".yaml"):
            found[prefix + entry.name.removesuffix(".yaml")] = _first_comment(entry.read_text(encoding="utf-8"))


def _first_comment(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.removeprefix("#").strip()
    return ""


# ------------------------------------------------------------------------------------------------ compose


def compose(
    overrides: Sequence[str], parse: Callable[[str], tuple[str, str]] | None = None, root: str = "train"
) -> dict[str, Any]:
    """Plain settings from presets and `key=value` words; later wins: defaults, algorithm, environment preset, words.

    `parse` reads an environment that has no preset into (kind, name); `root` is one of ROOTS. Keys are not checked
    here: `build` does, because the dataclasses are the one list of valid keys.
    """
    chosen, settings = _sort_words(overrides, root)
    for group, option in chosen.items():
        if group != "env":
            _check_preset(group, option, root)
    needed = ROOTS[root].needed
    if needed not in chosen and not any(_key(word).startswith(f"{needed}.") for word in settings):
        raise UserError(ROOTS[root].words)
    env = chosen.get("env")
    named: tuple[str, str] | None = None
    if env is not None and env not in presets("env", root):
        if parse is None:
            _check_preset("env", env, root)
        else:
            named = parse(chosen.pop("env"))
    composed = _hydra([f"{group}={option}" for group, option in chosen.items()] + settings, root)
    if named is not None:
        given = composed.get("env") or {}
        composed["env"] = {"kind": named[0], "name": named[1], **given}
    return composed


def _check_preset(group: str, option: str, root: str) -> None:
    known = presets(group, root)
    if option in known:
        return
    hint = f"did you mean {nearest(option, known)!r}?"
    if option in presets(group):
        whose = "language" if root == "train" else "control"
        raise UserError(f"{group}={option} is for {whose} agents; {hint}")
    raise UserError(f"There is no {group} preset {option!r}; {hint}")


def _sort_words(overrides: Sequence[str], root: str) -> tuple[dict[str, str], list[str]]:
    """Words that choose a preset, by group, and words that set a value, as Hydra wants them."""
    known = groups(root)
    foreign = {group for other in ROOTS for group in groups(other)} - set(known)
    chosen: dict[str, str] = {}
    settings: list[str] = []
    for word in overrides:
        key, sign, value = word.partition("=")
        key, value = key.strip(), value.strip().strip("'\"")
        if not _KEY.fullmatch(key) or (not sign and not key.startswith("~")):
            raise UserError(f"{word!r} is not of the form key=value.")
        if key in foreign:
            raise UserError(f"{word!r} has no meaning here: presets are chosen by {', '.join(f'{g}=' for g in known)}.")
        if key not in known:
            if _key(word).partition(".")[0] == "hydra":
                raise UserError(f"Unknown key {_key(word)!r}: Hydra's own settings play no part here.")
            # "++" sets a key whether or not a preset mentions it; which keys exist is for `build` to say
            settings.append(word if key[0] in "+~" else f"++{word}")
        elif key in chosen:
            raise UserError(f"{key} is given twice: {chosen[key]!r} and {value!r}.")
        elif not value:
            example = next(iter(presets(key, root)))
            raise UserError(f"{key}= lacks the name of a preset, for instance {key}={example}.")
        else:
            chosen[key] = value
    return chosen, settings


def _key(word: str) -> str:
    return word.partition("=")[0].strip().lstrip("+~")


def _hydra(words: list[str], root: str) -> dict[str, Any]:
    """Compose `words` with Hydra, leaving working directory, logging and a caller's own Hydra as they were."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.singleton import Singleton
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    for word in words:
        shown = word.removeprefix("++")
        try:
            several = parser.parse_override(word).is_sweep_override()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(
                f"{shown!r} cannot be read: {_line(error)}. Text with special characters goes in quotes, \"key='...'\"."
            ) from error
        if several:
            raise UserError(f"{shown!r} gives several values; a list is written [1,2], several seeds are seeds=N.")
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(PRESETS, version_base="1.3"):
            config = hydra_compose(root, overrides=words)
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"The settings cannot be put together: {_line(error)}") from error
    finally:
        Singleton.set_state(before)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


# ------------------------------------------------------------------------------------------------ values


def check_ranges(
    *,
    at_least_one: Mapping[str, float | None],
    not_negative: Mapping[str, float | None],
    positive: Mapping[str, float | None],
    shares: Mapping[str, float | None],
) -> None:
    """Refuse numbers with which nothing could work; values by dotted key, None being none."""
    for settings, low, high, words in (
        (at_least_one, 1, math.inf, "at least 1"),
        (not_negative, 0, math.inf, "at least 0"),
        (positive, math.ulp(0.0), math.inf, "more than 0"),
        (shares, 0, 1, "between 0 and 1"),
    ):
        for key, value in settings.items():
            if value is not None and not low <= value <= high:
                raise UserError(f"{key} must be {words}, not {value}.")
