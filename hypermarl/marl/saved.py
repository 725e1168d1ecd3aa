"""From a run folder's files back to what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.errors import UserError
from hypermarl.marl.policy import Policy
from hypermarl.runs import Checkpoint, RunFolder


def find_checkpoint(path: Path, seed: int | None = None) -> tuple[RunFolder, Checkpoint]:
    """The run and checkpoint that `path` and `seed` mean."""
    frame = None
    if path.parent.name == "checkpoints" and not (path / "config.json").exists():
        path, frame = path.parent.parent, path.name
    folder = _of_seed(RunFolder.open(path), seed)
    if frame is not None:
        for checkpoint in folder.checkpoints():
            if checkpoint.path.name == frame:
                return folder, checkpoint
        raise UserError(f"{folder.path} has no complete checkpoint {frame}.")
    latest = folder.latest()
    if latest is None:
        raise UserError(f"{folder.path} has no checkpoint yet.")
    return folder, latest


def _of_seed(folder: RunFolder, seed: int | None) -> RunFolder:
    """The folder of one seed: the run itself, or one of those that a run of several seeds holds."""
    seeds = {int(each.config.get("seed", 0)): each for each in folder.seeds()}
    if not seeds:
        own = folder.config.get("seed", seed)
        if seed not in (None, own):
            raise UserError(f"{folder.path} holds seed {own}, not {seed}.")
        return folder
    names = ", ".join(map(str, seeds))
    if seed is None:
        raise UserError(f"{folder.path} holds seeds {names}; say which with seed= (--run-seed on the command line).")
    if seed not in seeds:
        raise UserError(f"{folder.path} holds no seed {seed}, only {names}.")
    return seeds[seed]


def restore(policies: Mapping[str, Policy], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Put saved tensors, named `<group>/<parameter>`, into the policies of one seed."""
    for name, policy in policies.items():
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        try:
            policy.load_state_dict(own)
        except RuntimeError:
            raise UserError(f"{source} does not fit the settings in its run's config.json.") from None


def groups_from(folder: RunFolder) -> dict[str, Group]:
    """The groups of agents that a run folder tells of."""
    try:
        return {name: _group(entry) for name, entry in folder.groups.items()}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{folder.path / 'config.json'} does not say what its agents see and do; it is damaged."
        ) from None


def _group(entry: Mapping[str, Any]) -> Group:
    action = entry["action"]
    kind = Discrete(int(action["n"])) if "n" in action else Continuous(tuple(action["low"]), tuple(action["high"]))
    return Group(
        str(entry["name"]), tuple(entry["agents"]), int(entry["observation"]), kind, bool(entry.get("masked", False))
    )
