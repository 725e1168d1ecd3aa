"""Time to a result: BenchMARL's IPPO on Dispersion with the settings of configs/env/vmas/dispersion.yaml, one seed.

    .venv-benchmarl/bin/python experiments/speed/learn_benchmarl.py --sharing independent --seed 0 --out runs/benchmarl

Writes `<out>/<sharing>_<seed>.csv` as it goes: frames, CPU and wall seconds of training alone (evaluation does not
count), the mean return of the episodes that ended while training since the last row, and of 32 greedy episodes. A
return is the mean over agents of the plain sum of rewards, as everywhere here. A file that has come to the end is left
alone.

What BenchMARL has no setting for stays as it is: it normalises no advantages, clips no values, and counts the time
limit as an end of the world; it clips the gradients of actor and critic each by themselves.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch
from theirs import Callback, Setting, build
from torchrl.envs.utils import ExplorationType, set_exploration_type

OPTIONS = {"n_agents": 4, "n_food": 4, "food_radius": 0.08, "share_reward": False, "penalise_by_time": True}
COLUMNS = ("frame", "cpu", "wall", "episodes", "return_training", "return_greedy")


class Recorder(Callback):
    """A row every `every` iterations and after the last."""

    def __init__(self, path: Path, every: int, last: int, frames_per_iteration: int) -> None:
        super().__init__()
        self.path, self.every, self.last, self.frames = path, every, last, frames_per_iteration
        self.done = 0
        self.ended: list[torch.Tensor] = []
        self.cpu = self.wall = 0.0
        self.restart()
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def restart(self) -> None:
        self.begin = time.process_time(), time.perf_counter()

    def on_batch_collected(self, batch: Any) -> None:
        returns = batch["next", "agents", "episode_reward"].mean(dim=(-2, -1))
        self.ended.append(returns[batch["next", "done"].squeeze(-1)])

    def on_train_end(self, training_td: Any, group: str) -> None:
        self.done += 1
        if self.done % self.every and self.done != self.last:
            return
        self.cpu += time.process_time() - self.begin[0]
        self.wall += time.perf_counter() - self.begin[1]
        ended = torch.cat(self.ended)
        row = (self.done * self.frames, self.cpu, self.wall, len(ended), float(ended.mean()), self.play())
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([row[0], *(f"{value:.6g}" for value in row[1:])])
        self.ended.clear()
        self.restart()

    @torch.no_grad()
    def play(self) -> float:
        """The mean return of one greedy episode in each of the evaluation environments."""
        experiment = self.experiment
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            played = experiment.test_env.rollout(
                experiment.max_steps, experiment.policy, auto_cast_to_device=True, break_when_any_done=False
            )
        done = played["next", "done"].squeeze(-1).int()  # [E, T]
        running = (done.cumsum(1) - done) == 0  # up to and with the step that ends the first episode
        rewards = played["next", "agents", "reward"].squeeze(-1).mean(-1)
        return float((rewards * running).sum(1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sharing", choices=("shared", "independent"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--frames", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarl"))
    words = parser.parse_args()
    torch.set_num_threads(1)
    shared = words.sharing == "shared"
    setting = Setting(
        task="dispersion",
        options=OPTIONS,
        max_steps=100,
        envs=16,
        steps=128,
        algorithm="ippo",
        activation="relu",
        minibatches=2,
        share_policy=shared,
        share_critic=shared,
        continuous=False,
        lr=5e-4,
        lam=0.95,
        entropy=0.01,
        value_coef=0.5,
        max_grad_norm=0.5,
        adam_eps=1e-5,
        seed=words.seed,
    )
    setting.iterations = -(-words.frames // setting.frames_per_iteration)
    words.out.mkdir(parents=True, exist_ok=True)
    path = words.out / f"{words.sharing}_{words.seed}.csv"
    if path.exists() and _last_frame(path) >= words.frames:
        return
    every = 100_000 // setting.frames_per_iteration
    recorder = Recorder(path, every, setting.iterations, setting.frames_per_iteration)
    experiment = build(setting, [recorder], evaluation_episodes=32)
    recorder.restart()
    experiment.run()


def _last_frame(path: Path) -> int:
    with path.open(newline="") as file:
        return max((int(row["frame"]) for row in csv.DictReader(file)), default=0)


if __name__ == "__main__":
    main()
