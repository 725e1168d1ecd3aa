"""Which run, which of its seeds and which checkpoint a path means."""

from __future__ import annotations

from pathlib import Path

from hypermarl.errors import UserError
from hypermarl.runs import Checkpoint, RunFolder


def folder_of(path: Path) -> RunFolder:
    """The run at `path`, or the one whose checkpoint `path` is."""
    inside = path.parent.name == "checkpoints" and not (path / "config.json").exists()
    return RunFolder.open(path.parent.parent if inside else path)


def find_checkpoint(path: Path, seed: int | None = None) -> tuple[RunFolder, Checkpoint]:
    """The run and checkpoint that `path` and `seed` mean."""
    opened = folder_of(path)
    folder = _of_seed(opened, seed)
    if opened.path != path:
        for checkpoint in folder.checkpoints():
            if checkpoint.path.name == path.name:
                return folder, checkpoint
        raise UserError(f"{folder.path} has no complete checkpoint {path.name}.")
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
