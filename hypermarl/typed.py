"""From plain values to frozen dataclasses and to the arguments of functions, as their annotations say."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hypermarl.errors import UserError

T = TypeVar("T")


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Make the dataclass `cls`, and those nested in it, from plain values; a wrong key or value is a UserError.

    `where` is the dotted key of `mapping` itself, for messages.
    """
    return _build(cls, mapping, where, keys(cls, where))


def arguments(function: Callable[..., Any], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The plain values `given` as keyword arguments of `function`; a wrong name or value is a UserError.

    `where` is the dotted key of `given` itself, for messages.
    """
    kinds = {name: kind for name, kind in typing.get_type_hints(function).items() if name != "return"}
    valid = [_join(where, name) for name in kinds]
    _check_names(given, kinds, where, valid)
    return {name: _convert(kinds[name], value, _join(where, name), valid) for name, value in given.items()}


def keys(cls: type[Any], where: str = "") -> list[str]:
    """Every dotted key of `cls`, nested dataclasses included."""
    found: list[str] = []
    for name, kind in _hints(cls).items():
        found.append(_join(where, name))
        if is_dataclass(kind):
            found += keys(typing.cast(type[Any], kind), _join(where, name))
    return found


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
    _check_names(mapping, hints, where, valid)
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


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any], where: str, valid: list[str]) -> None:
    for name in given:
        if name not in known:
            unknown = _join(where, str(name))
            hint = f"did you mean {nearest(unknown, valid)!r}?" if valid else "there are none here."
            raise UserError(f"Unknown key {unknown!r}; {hint}")


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
        if len(args) > 1 and len(set(args)) == 1:
            return f"a list of {len(args)}, each {describe(args[0])}"
        return "a list of " + ", ".join(describe(each) for each in args)
    if is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a group of settings"
    return _WORDS.get(kind, str(kind))
