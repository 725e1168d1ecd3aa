"""Small runs of the training loop, and what to compare of their folders."""

from __future__ import annotations

import csv
from pathlib import Path

import safetensors.torch
import torch
from small import QUIET, config

from hypermarl.marl.train import Experiment
from hypermarl.runs import RunFolder

FRAMES = 24  # of an iteration


def experiment(folder: Path, *words: str, iterations: int = 4) -> Experiment:
    lasting = (f"train.frames={FRAMES * iterations}", f"train.folder={folder}", "train.run=one", *QUIET)
    return Experiment(config(*lasting, "train.checkpoint_every=2", *words))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoints of a run and of its seeds."""
    found = {}
    for each in (RunFolder.open(folder), *RunFolder.open(folder).seeds()):
        newest = each.latest()
        assert newest is not None
        for path in sorted(newest.path.glob("*.safetensors")):
            for name, tensor in safetensors.torch.load_file(path).items():
                found[f"{each.path.name}/{newest.path.name}/{path.stem}/{name}"] = tensor
    return found


def same(one: Path, other: Path) -> bool:
    x, y = ({k.replace(p.name, "run", 1): v for k, v in tensors(p).items()} for p in (one, other))
    return x.keys() == y.keys() and all(torch.equal(v, y[k]) for k, v in x.items())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
