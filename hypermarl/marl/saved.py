"""From a run folder's files back to what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.errors import UserError
from hypermarl.marl.policy import Policy
from hypermarl.runs import RunFolder


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
