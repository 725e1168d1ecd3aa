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
    if path.parent.name == "checkpoints" and not (path / "config.json").exists():
        folder = RunFolder.open(path.parent.parent)
        for checkpoint in folder.checkpoints():
            if checkpoint.path.name == path.name:
                return folder, checkpoint
        raise UserError(f"{path} is no complete checkpoint.")
    folder = RunFolder.open(path)
    seeds = {int(each.config.get("seed", 0)): each for each in folder.seeds()}
    if seeds:
        if seed is None:
            raise UserError(f"{path} holds seeds {', '.join(map(str, seeds))}; say which with seed=.")
        if seed not in seeds:
            raise UserError(f"{path} holds no seed {seed}, only {', '.join(map(str, seeds))}.")
        folder = seeds[seed]
    elif seed is not None and seed != folder.config.get("seed", seed):
        raise UserError(f"{path} holds seed {folder.config['seed']}, not {seed}.")
    latest = folder.latest()
    if latest is None:
        raise UserError(f"{folder.path} has no checkpoint yet.")
    return folder, latest


def restore(policies: Mapping[str, Policy], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Put saved tensors, named `<group>/<parameter>`, into the policies of one seed."""
    for name, policy in policies.items():
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        try:
            policy.load_state_dict(own)
        except RuntimeError:
            raise UserError(f"{source} does not fit the settings in its run's config.json.") from None


def group_from(entry: Mapping[str, Any]) -> Group:
    """A group as a run folder's JSON tells it."""
    action = entry["action"]
    kind = Discrete(int(action["n"])) if "n" in action else Continuous(tuple(action["low"]), tuple(action["high"]))
    return Group(
        str(entry["name"]), tuple(entry["agents"]), int(entry["observation"]), kind, bool(entry.get("masked", False))
    )
