"""What the shell offers when the user presses Tab in the middle of a word."""

from __future__ import annotations

from hypermarl import config as settings


def complete(incomplete: str) -> list[str]:
    """`env=`, `sharing=`, ... and the names of their presets."""
    return _complete(incomplete, "train")


def complete_language(incomplete: str) -> list[str]:
    """The same for `hypermarl language train`."""
    return _complete(incomplete, "language")


def complete_swarm(incomplete: str) -> list[str]:
    """The same for `hypermarl swarm train`."""
    return _complete(incomplete, "swarm")


def _complete(incomplete: str, root: str) -> list[str]:
    words = [f"{group}=" for group in settings.groups(root)]
    for group in settings.groups(root):
        if incomplete.startswith(f"{group}="):
            words = [f"{group}={name}" for name in settings.presets(group, root)]
    return [word for word in words if word.startswith(incomplete)]


def complete_sweep(incomplete: str) -> list[str]:
    """The same after each comma of a word, and the words that only a sweep has."""
    head, comma, last = incomplete.rpartition(",")
    if not comma:
        own = ("launcher=local", "launcher=ray", "jobs=", "retries=")
        return complete(incomplete) + [word for word in own if word.startswith(incomplete)]
    key = head.partition("=")[0]
    return [f"{head},{word.removeprefix(f'{key}=')}" for word in complete(f"{key}={last}")]
