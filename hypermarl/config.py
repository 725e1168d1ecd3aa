"""From `key=value` words to frozen dataclasses: Hydra composes the presets, `build` checks every key and value."""

from __future__ import annotations

import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hypermarl.errors import UserError

PRESETS = "hypermarl.configs"
T = TypeVar("T")
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


# ------------------------------------------------------------------------------------------------ build


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Make the dataclass `cls`, and those nested in it, from plain values; a wrong key or value is a UserError.

    `where` is the dotted key of `mapping` itself, for messages.
    """
    return _build(cls, mapping, where, keys(cls, where))


def keys(cls: type[Any], where: str = "") -> list[str]:
    """Every dotted key of `cls`, nested dataclasses included."""
    found: list[str] = []
    for name, kind in _hints(cls).items():
        found.append(_join(where, name))
        if is_dataclass(kind):
            found += keys(typing.cast(type[Any], kind), _join(where, name))
    return found


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


def to_dict(config: Any) -> Any:
    """The inverse of `build`: plain dicts, lists, numbers and strings, fit for JSON."""
    if is_dataclass(config) and not isinstance(config, type):
        return {each.name: to_dict(getattr(config, each.name)) for each in fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of `words` most like `word`; of dotted keys the last part counts as much as the whole."""
    last = word.rpartition(".")[2]
    initials = "".join(part[:1] for part in last.split("_"))  # learning_rate is meant to be lr

    def likeness(candidate: str) -> float:
        end = candidate.rpartition(".")[2]
        alike = 1.0 if len(initials) > 1 and end == initials else difflib.SequenceMatcher(None, last, end).ratio()
        inside = word.startswith(f"{candidate}.")  # the group that lacks the key is no answer
        return alike + difflib.SequenceMatcher(None, word, candidate).ratio() - 2.0 * inside

    return max(words, key=likeness)


def _build(cls: type[T], mapping: Any, where: str, valid: list[str]) -> T:
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where or 'The configuration'} must be a group of settings, not {mapping!r}.")
    hints = _hints(cls)
    for name in mapping:
        if name not in hints:
            unknown = _join(where, str(name))
            raise UserError(f"Unknown key {unknown!r}; did you mean {nearest(unknown, valid)!r}?")
    values: dict[str, Any] = {}
    for each in fields(cls):  # type: ignore[arg-type]
        key = _join(where, each.name)
        if each.name in mapping:
            values[each.name] = _convert(hints[each.name], mapping[each.name], key, valid)
        elif each.default is MISSING and each.default_factory is MISSING:
            if not is_dataclass(hints[each.name]):
                raise UserError(f"{key} is missing.")
            # nothing of a nested group was given: it names what it lacks itself
            values[each.name] = _convert(hints[each.name], {}, key, valid)
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _convert(kind: Any, value: Any, key: str, valid: list[str]) -> Any:
    """`value` as the type `kind`, or a UserError that names `key`."""
    if is_dataclass(kind):
        return _build(typing.cast(type[Any], kind), value, key, valid)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(kind, value, key, valid)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        hint = f"; did you mean {nearest(value, map(str, args))!r}?" if isinstance(value, str) else "."
        raise UserError(f"{key} must be {describe(kind)}, not {value!r}{hint}")
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(
                _convert(each, item, f"{key}[{place}]", valid)
                for place, (each, item) in enumerate(zip(kinds, value, strict=True))
            )
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        inner = args[1] if len(args) == 2 else Any
        return {str(name): _convert(inner, item, _join(key, str(name)), valid) for name, item in value.items()}
    elif kind is Any:
        return value
    elif kind in _SCALARS and (found := _SCALARS[kind](value)) is not None:
        return found
    elif kind is type(None) and value is None:
        return None
    raise UserError(f"{key} must be {describe(kind)}, not {value!r}.")


def _convert_union(kind: Any, value: Any, key: str, valid: list[str]) -> Any:
    for each in get_args(kind):
        try:
            return _convert(each, value, key, valid)
        except UserError:
            continue
    raise UserError(f"{key} must be {describe(kind)}, not {value!r}.")


def _as_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _as_int(value: Any) -> int | None:
    """Also 1e6, which YAML and the command line read as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value and abs(value) < 2**63 and int(value) == value else None


def _as_float(value: Any) -> float | None:
    wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or value != value
    return None if wrong else float(value)


def _as_str(value: Any) -> str | None:
    """Also a whole number, so that a run may be called 7."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


_SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _as_bool, int: _as_int, float: _as_float, str: _as_str}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def describe(kind: Any) -> str:
    """A type in a user's words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(each) for each in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(each) for each in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list with {describe(args[0])} in each place"
        return "a list of " + ", ".join(describe(each) for each in args)
    if is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a group of settings"
    return _WORDS.get(kind, str(kind))
